"""TensorRT for RTX builds engines from the graphs, for GPUs that this machine need not have."""

import onnx
import pytest

from worker.models.cosmos_embed1.checkpoint import open_checkpoint
from worker.models.cosmos_embed1.network import TextNetwork, VideoNetwork
from worker.models.cosmos_embed1.recipe import Recipe

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")


class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.lines = []

    def log(self, severity, message):
        self.lines.append((severity, message))

    def text(self):
        return "\n".join(message for _, message in self.lines)


def build(path, capability, profile):
    """The engine's bytes and the log. Fails with the parser's or the builder's errors."""
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse_from_file(str(path)), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(capability, 0)
    optimization = builder.create_optimization_profile()
    for name, shapes in profile.items():
        optimization.set_shape(name, *shapes)
    config.add_optimization_profile(optimization)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None, log.text()[-3000:]
    return bytes(engine), log


@pytest.fixture(scope="module")
def graphs(make_checkpoint, tmp_path_factory):
    """graphs(precision) -> paths of the two graphs of a miniature with as many tokens as 224p."""
    folder = tmp_path_factory.mktemp("tensorrt")
    made = make_checkpoint(folder / "c", resolution=224, vision_depth=1, text_depth=2, cross_layers=(0,))
    checkpoint = open_checkpoint(made.path)

    def make(precision):
        paths = folder / f"video-{precision}.onnx", folder / f"text-{precision}.onnx"
        built = (
            VideoNetwork(checkpoint, precision).build([Recipe()]),
            TextNetwork(checkpoint, precision).build(Recipe()),
        )
        for path, graph in zip(paths, built, strict=True):
            graph.write_data(path.with_name(f"{path.name}.data"))
            graph.write(path, f"{path.name}.data", {})
        return paths

    return make


VIDEO = {"videos": [(batch, 8, 3, 224, 224) for batch in (1, 2, 4)]}
STILLS = {"videos": [(1, 1, 3, 224, 224), (2, 8, 3, 224, 224), (4, 8, 3, 224, 224)]}
TEXT = {name: [(1, 1), (4, 24), (4, 64)] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("capability", ["SM89", "SM120"])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_engines_for_gpus_that_are_not_here(graphs, precision, capability):
    video, text = graphs(precision)
    capability = getattr(trt.ComputeCapability, capability)
    for path, profile in ((video, VIDEO), (text, TEXT)):
        engine, log = build(path, capability, profile)
        assert len(engine) > 1_000_000
        assert not [message for severity, message in log.lines if severity <= trt.ILogger.Severity.ERROR]
        # Head size 88 is no power of two, and the softmax is fp32: they must be fused all the same.
        first = next(
            node.name
            for node in onnx.load(path, load_external_data=False).graph.node
            if node.op_type == "Softmax"
        )
        fused = [
            line
            for line in log.text().splitlines()
            if "_gemm_mha" in line and f"[ONNX Layer: {first}]" in line
        ]
        assert bool(fused) == (precision != "fp32")


def test_one_engine_can_serve_clips_and_pictures(graphs):
    video, _ = graphs("fp16")
    engine, _ = build(video, trt.ComputeCapability.SM89, STILLS)
    assert len(engine) > 1_000_000
