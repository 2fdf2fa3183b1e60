"""The RoIAlign explorer."""
