"""Segment one photo on a Triton server, with what `flowerseg-export --triton` put there.

    python triton_client.py localhost:8001 flower photo.jpg mask.png

Needs `pip install "flowerseg[triton]"`; loads no torch, and wants no GPU and no model file on this
side. The server tells the size of its frames and its threshold: the same lines serve every model.
"""

import sys
from pathlib import Path

from tritonclient.grpc import InferenceServerClient, InferInput

from flowerseg.arrays import size_of
from flowerseg.images import read_rgb, write_mask
from flowerseg.masks import mask_from_foreground
from flowerseg.preprocess import Preprocess, frame_from_photo

address, model, photo, mask = sys.argv[1:]
client = InferenceServerClient(address)
config = client.get_model_config(model).config
height, width, _ = config.input[0].dims
threshold = float(config.parameters["flowerseg_threshold"].string_value)

rgb = read_rgb(Path(photo))
frame = frame_from_photo(rgb, Preprocess((height, width)))
images = InferInput("images", [1, height, width, 3], "UINT8").set_data_from_numpy(frame[None])
foreground = client.infer(model, [images]).as_numpy("foreground")[0]
write_mask(Path(mask), mask_from_foreground(foreground, size_of(rgb), threshold))
