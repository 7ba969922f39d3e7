"""The networks of docs/coverage.md, by part, and how each is built with random weights.

Names: built-in networks and those of torchvision as `cfp` takes them, `timm:NAME`, `hf:MODEL` (Hugging Face
transformers), `smp:DECODER` (segmentation-models-pytorch) and `ultralytics:NAME`. These four need their packages.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from torchvision import models

from cfp_cli.models.registry import create

CLASSES = 6
# The variable that names the network of `factory`.
VARIABLE = "CFP_COVERAGE_NETWORK"

BUILT_IN = ("vgg16_bn_gap", "repvgg_a0", "dddn")
TORCHVISION_TRANSFORMERS = ("vit_b_16", "swin_t", "swin_v2_t", "maxvit_t")
TIMM = tuple(
    """
    resnet26d resnest14d res2net50_14w_8s seresnet33ts skresnet18 ghostnet_050 hrnet_w18_small dla34
    ese_vovnet19b_slim cspresnet50 cspdarknet53 darknet53 mobilenetv4_conv_small_050 mobileone_s0 repvgg_a0
    efficientnet_lite0 tinynet_e mixnet_s rexnet_100 fbnetc_100 dpn48b selecsls42 legacy_xception
    inception_resnet_v2 inception_v4 dm_nfnet_f0 convnextv2_atto regnetz_b16 gernet_s semnasnet_050 spnasnet_100
    lcnet_050 inception_next_atto starnet_s1 rdnet_tiny hgnetv2_b0 resnetv2_50 eca_resnet33ts resnetblur18
    repghostnet_050 poolformer_s12 fasternet_t0 mambaout_femto legacy_seresnet18 densenetblur121d
    edgenext_xx_small halonet26t bat_resnext26ts convmixer_768_32 convnext_atto cs3darknet_focus_s cspnext_tiny
    cspresnext50 darknet17 darknetaa53 dla60_res2net eca_nfnet_l0 eca_resnext26ts eca_vovnet39b ecaresnet26t
    ecaresnetlight ecaresnext26t_32x4d efficientnet_b0 efficientnet_cc_b0_4e efficientnet_el efficientnet_em
    efficientnet_es efficientnetv2_rw_t ese_vovnet19b_dw fbnetv3_b gc_efficientnetv2_rw_t gcresnet33ts
    gcresnext26ts ghostnetv3_050 hardcorenas_a hgnet_tiny lcnetv2_small mnasnet_small mobilenet_edgetpu_100
    mobilenetv2_035 nf_ecaresnet26 nf_regnet_b0 nf_resnet26 nf_seresnet26 nfnet_l0 poolformerv2_s12 regnetv_040
    regnetx_002 regnety_002 regnetz_005 regnetz_c16 repvgg_b0 repvit_m1 res2net50_26w_4s resnet18 resnetaa34d
    resnetrs50 resnetv2_18 resnext26ts rexnetr_100 sedarknet21 selecsls60 seresnet18 seresnext26ts
    skresnext50_32x4d starnet_s050 tf_efficientnet_b0 tf_efficientnetv2_b0 tf_mobilenetv3_small_075 tinynet_b
    vovnet39a xception41p
    """.split()  # noqa: SIM905
)
TIMM_TRANSFORMERS = tuple(
    """
    beit_base_patch16_224 botnet26t_256 caformer_s18 coat_tiny coatnet_nano_cc_224 coatnet_rmlp_nano_rw_224
    coatnext_nano_rw_224 convformer_s18 convit_tiny crossvit_tiny_240 davit_tiny deit_tiny_patch16_224
    eca_botnext26ts_256 eca_halonext26ts efficientformer_l1 efficientformerv2_s0 efficientvit_b0
    eva02_tiny_patch14_224 fastvit_t8 flexivit_small focalnet_tiny_srf gcvit_xxtiny gmixer_12_224 gmlp_ti16_224
    haloregnetz_b iformer_t lambda_resnet26t levit_128 levit_conv_128 maxvit_pico_rw_256 mobilevit_xxs
    mobilevitv2_050 mvitv2_tiny nest_tiny nextvit_small pit_ti_224 pvt_v2_b0 resmlp_12_224 sebotnet33ts_256
    sequencer2d_s shvit_s1 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 tiny_vit_5m_224
    tnt_s_legacy_patch16_224 twins_pcpvt_small twins_svt_small visformer_tiny vit_tiny_patch16_224
    xcit_nano_12_p8_224
    """.split()  # noqa: SIM905
)
# Hugging Face: options of the configuration where the published size is not needed to show the structure.
_SMALL = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 768}
HUGGING_FACE: dict[str, dict[str, object]] = {
    "ResNet": {},
    "RegNet": {},
    "MobileNetV1": {},
    "MobileNetV2": {},
    "EfficientNet": {"hidden_dim": 1280, "width_coefficient": 1.0, "depth_coefficient": 1.0},
    "ConvNext": {"hidden_sizes": [48, 96, 192, 384], "depths": [2, 2, 6, 2]},
    "ConvNextV2": {"hidden_sizes": [48, 96, 192, 384], "depths": [2, 2, 6, 2]},
    "FocalNet": {},
    "PoolFormer": {},
    "Bit": {},
    "MobileViT": {},
    "MobileViTV2": {},
    "SwiftFormer": {},
    "Levit": {},
    "Pvt": {},
    "PvtV2": {},
    "Swin": {},
    "Swinv2": {},
    "ViT": _SMALL,
    "DeiT": _SMALL,
    "Beit": _SMALL,
    "Dinov2": _SMALL,
    "ViTMSN": _SMALL,
    "Segformer": {},
}
TORCHVISION_SEGMENTATION = (
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)
SMP = (
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PAN",
    "UPerNet",
    "Segformer",
)
TORCHVISION_DETECTION = (
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
)
ULTRALYTICS = tuple(
    f"yolo{name}"
    for name in (
        *("v5n", "v6n", "v8n", "v9t", "v10n", "11n", "12n"),
        *("v8n-seg", "v9c-seg", "11n-seg", "v8n-pose", "11n-pose", "v8n-cls", "11n-cls"),
    )
)
# Sides in pixels. Networks that fix their size, and those with deep strides, need larger images than 64 pixels.
SIDES = {
    **{"inception_v3": 96, "timm:inception_v4": 96, "timm:inception_resnet_v2": 96, "timm:halonet26t": 256},
    **{"timm:bat_resnext26ts": 256, "timm:eca_resnext26ts": 128, "timm:gcresnext26ts": 128},
    **{"timm:coatnet_nano_cc_224": 224, "timm:crossvit_tiny_240": 240, "timm:flexivit_small": 240, "swin_v2_t": 256},
    # Group norms need more than one value a group in their smallest map.
    **{"fcos_resnet50_fpn": 256, "retinanet_resnet50_fpn_v2": 256},
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
}


def parts() -> dict[str, list[str]]:
    """Names of the networks by part of the page."""
    convolutional = [
        name for name in models.list_models(module=models) if not name.startswith(("vit_", "swin_", "maxvit"))
    ]
    return {
        "Classification": [*BUILT_IN, *convolutional, *(f"timm:{name}" for name in TIMM)],
        "Transformers and hybrids": [*TORCHVISION_TRANSFORMERS, *(f"timm:{name}" for name in TIMM_TRANSFORMERS)],
        "Hugging Face": [f"hf:{name}" for name in HUGGING_FACE],
        "Segmentation": [*TORCHVISION_SEGMENTATION, *(f"smp:{name}" for name in SMP)],
        "Detection": [*TORCHVISION_DETECTION, *(f"ultralytics:{name}" for name in ULTRALYTICS)],
    }


def classifiers() -> list[str]:
    """Names of the networks that return logits and that `cfp` builds by their names."""
    found = parts()
    return [*found["Classification"], *found["Transformers and hybrids"]]


def side(name: str) -> int:
    """Image side in pixels."""
    package, _, short = name.rpartition(":")
    if name in SIDES:
        return SIDES[name]
    if package == "timm" and short in TIMM_TRANSFORMERS:
        return 256 if short.endswith("_256") or short.startswith(("mobilevit", "fastvit", "eca_halo", "halo")) else 224
    if name in TORCHVISION_TRANSFORMERS or package == "hf":
        return 224
    return (
        128 if package in ("smp", "ultralytics") or name in (*TORCHVISION_SEGMENTATION, *TORCHVISION_DETECTION) else 64
    )


def is_registered(name: str) -> bool:
    """Whether `cfp` builds the network by its name."""
    return not name.startswith(("hf:", "smp:", "ultralytics:"))


def factory() -> nn.Module:
    """The network that the environment names, so that a new process can load a checkpoint of it."""
    return _other(os.environ[VARIABLE])


def build(name: str) -> nn.Module:
    """A network with seeded weights. Statistics and parameters get random values instead of neutral ones.

    A branch that ends in a scale of zero, as many networks begin their training, would prove nothing.
    """
    torch.manual_seed(0)
    model = (create(name, CLASSES) if is_registered(name) else _other(name)).eval()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key, tensor in [*parameters.items(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if tensor.dim() == 1 and "running_var" in key:
                tensor.uniform_(0.5, 1.5)
            elif "layer_scale" in key or "gamma" in key:
                tensor.uniform_(0.1, 1.0)
            elif tensor.dim() == 1 and ("running_mean" in key or "bias" in key):
                tensor.normal_(0, 0.1)
            elif key in parameters and tensor.numel() > 0 and (tensor == tensor.flatten()[0]).all():
                if max(tensor.shape, default=1) < tensor.numel():
                    # Such as the head of torchvision's ViT, and tables of position biases.
                    tensor.normal_(0, 0.05)
                else:
                    tensor.uniform_(0.5, 1.5)
    return model


def _other(name: str) -> Any:
    package, _, short = name.partition(":")
    if package == "hf":
        import transformers

        config = getattr(transformers, f"{short}Config")
        maker = getattr(transformers, f"{short}ForImageClassification")
        return maker(config(num_labels=CLASSES, **HUGGING_FACE[short]))
    if package == "smp":
        import segmentation_models_pytorch

        maker = getattr(segmentation_models_pytorch, short)
        return maker(encoder_name="resnet18", encoder_weights=None, classes=CLASSES)
    from ultralytics.nn import tasks

    kinds = {"seg": tasks.SegmentationModel, "pose": tasks.PoseModel, "cls": tasks.ClassificationModel}
    return kinds.get(short.rpartition("-")[2], tasks.DetectionModel)(f"{short}.yaml", verbose=False)
