"""The anchor and NMS explorer."""
