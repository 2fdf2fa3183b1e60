"""Export of a data set for Detectron2."""
