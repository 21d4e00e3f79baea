"""Read videos, cameras, folders and drawn streets; write segmented H.264 videos."""

from alignseg_infer.video.frames import Frame, FrameSource, StreamFacts
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.video.sources import open_source

__all__ = ["Frame", "FrameSource", "StreamFacts", "VideoOptions", "open_source"]
