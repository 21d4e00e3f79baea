"""How do I try a model without programming? A page for the browser, served by this machine.

`serving` binds the address and runs the page, `blocks` lays it out with Gradio, `work` segments
what is dropped on it, `results` keeps what came out for a while, and `routes` hands that to
``view.js``, which draws it. Nothing on the page comes from the network.
"""
