"""UPSNet (Y. Xiong et al., CVPR 2019)."""
