"""The R-CNN family: Faster R-CNN and Mask R-CNN."""
