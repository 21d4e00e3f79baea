"""How does Triton Inference Server serve a model?"""
