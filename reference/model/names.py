"""Names of backbones, for settings that are read without PyTorch."""

SMALL = "small"
"""A small network for small images, see `network.small_extractor`."""

B_CNN = "bcnn"
"""VGG16 with bilinear pooling."""

WIDENED_BACKBONES = ("resnet18", "vgg16_bn")
"""The networks of torchvision whose last stage can be widened to C·ξ channels."""
