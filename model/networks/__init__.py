"""Networks: mlp, cnn, pretrained and custom classes, from which `build_network` makes an `nn.Module`.

Preprocessing is in `relearn.model.data.transforms`, training in `relearn.model.training`.
"""
