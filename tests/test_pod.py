"""Programs compiled by TPU's compiler for pods that are not here: that they fit, and what their chips send."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dpm_jax.training import flops, hlo
from dpm_jax.training.hlo import Collective
from tests.commands import QUICK, refused, run
from tests.real_data import TEXTURES, TFDS_DIR, needs_dataset, needs_textures

ROOT = Path(__file__).parent.parent
needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs TPU's compiler: pip install 'jax[tpu]'"
)


def test_collectives_by_hand():
    text = """
      %all-reduce.1 = (f32[]{:T(128)}, f32[32]{0:T(128)S(1)}, /*index=2*/bf16[3,3,4,32]{3,2,1,0}) all-reduce(%a, %b, %c)
      %all-reduce.2 = f32[7]{0} all-reduce(%d), channel_id=4, replica_groups=mesh['axis_0'=4] {'axis_0'}
      %all-gather-start.1 = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%e), dimensions={0}
      %all-gather-done.1 = f32[8,8]{1,0} all-gather-done(%all-gather-start.1)
      %fusion.1 = f32[8]{0} fusion(%all-gather-done.1), calls=%all-reduce.9
    """
    assert hlo.collectives(text) == (
        Collective("all-reduce", 2, 4 + 4 * 32 + 2 * 3 * 3 * 4 * 32 + 4 * 7),
        Collective("all-gather", 1, 4 * 64),
    )
    assert hlo.collectives("%a = f32[2]{0} add(%b, %c)") == ()


def test_products_by_hand():
    text = """
%fused (a: bf16[8,8], b: f32[8,8]) -> f32[8,8] {
  %a = bf16[8,8]{1,0} parameter(0)
  %b = f32[8,8]{1,0:T(8,128)} parameter(1)
  %dot.1 = f32[8,8]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %dot.2 = f32[8,8]{1,0} dot(%b, %dot.1), lhs_contracting_dims={1}, operand_precision={highest,highest}
}

ENTRY %main (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  ROOT %convolution.3 = f32[8,8]{1,0} convolution(%p, %p), dim_labels=bf_io->bf, operand_precision={highest,highest}
}
"""
    assert hlo.products(text) == (hlo.Product("bf16", "default", 1), hlo.Product("f32", "highest", 2))


def test_what_leaves_the_chip_by_hand():
    text = """HloModule jit_step
%fused (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %b = f32[8]{0} add(%a, %a)
}

ENTRY %main (p.0: f32[8], p.1: bf16[4,8]) -> f32[8] {
  %p.0 = f32[8]{0:T(128)} parameter(0)
  %p.1 = bf16[4,8]{1,0} parameter(1)
  %slice-start = ((bf16[4,8]{1,0}), bf16[2,8]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%p.1), slice={[0:2], [0:8]}
  %slice-done = bf16[2,8]{1,0:S(1)} slice-done(%slice-start)
  %copy-start = (f32[8]{0:S(1)}, f32[8]{0}, u32[]{:S(2)}) copy-start(%p.0)
  %copy-done = f32[8]{0:S(1)} copy-done(%copy-start)
  %kept = f32[8]{0:S(1)} fusion(%copy-done), calls=%fused, backend_config={"estimated_cycles":"7"}
  ROOT %out = f32[8]{0} fusion(%kept, %p.0), calls=%fused, metadata={op_name="jit(step)/add"}
}
"""
    assert hlo.operations(text) == [
        hlo.Operation("slice-start", "", 2 * 16, 0),
        hlo.Operation("copy-start", "", 32, 0),
        hlo.Operation("fusion", "", 0, 7),
        hlo.Operation("fusion", "jit(step)/add", 64, 0),
    ]


def test_parts_of_a_program_by_hand():
    sources = {
        "jit(step)/jvp(UNet)/_ResBlock_0/Conv_1/cond/branch_1_fun/conv_general_dilated": 3,
        "jit(step)/jvp(UNet)/_ResBlock_13/Conv_0/cond/branch_1_fun/conv_general_dilated": 4,
        "jit(step)/transpose(jvp(UNet))/_ResBlock_0/GroupNorm_1/mul": 5,
        "jit(step)/update/jit(_where)/select_n": 2,
        "jit(step)/jvp(UNet)/concatenate": 1,
        "jit(step)/jvp()/add": 1,
        "": 0,
    }
    found = hlo.parts(hlo.Operation("fusion", source, 10, cycles) for source, cycles in sources.items())
    assert found[:3] == (
        hlo.Part("Conv/conv_general_dilated, forward", 2, 20, 7),
        hlo.Part("GroupNorm/mul, backward", 1, 10, 5),
        hlo.Part("update/select_n", 1, 10, 2),
    )
    assert {part.name for part in found[3:]} == {"UNet/concatenate, forward", "add, forward", "fusion"}


@pytest.mark.parametrize(("precision", "times"), [(None, 1), ("default", 1), ("high", 3), ("highest", 6)])
def test_products_of_float32_count_as_often_as_the_matrix_units_are_gone_through(precision, times):
    a = jnp.ones((5, 5))

    def product(a):
        return jnp.matmul(a, a, precision=precision)

    assert flops.count(product, a, passes=True) == times * flops.count(product, a) == times * 2 * 5**3
    assert flops.count(product, a.astype(jnp.bfloat16), passes=True) == 2 * 5**3
    x, kernel = jnp.ones((1, 3, 4, 4)), jnp.ones((2, 3, 3, 3))

    def convolution(x, kernel):
        return jax.lax.conv(x, kernel, (1, 1), "SAME", precision=precision)

    assert flops.count(convolution, x, kernel, passes=True) == times * flops.count(convolution, x, kernel) > 0


def test_a_topology_is_for_a_dry_run():
    refused(run("train", "--topology=v5e:2x4"), "--topology", "needs --dry_run")


def dry_run(command, *arguments):
    """Run a command's dry run in a new process; return its output, and the bytes of each collective operation."""
    done = subprocess.run(
        [sys.executable, str(ROOT / f"{command}.py"), "--dry_run", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    sent = {}
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) == 5 and words[1] == "x" and words[-1] == "MiB":
            sent[words[2].rstrip(",")] = float(words[3]) * 2**20
    return done.stdout, sent


@needs_compiler
def test_a_topology_that_there_is_not_is_refused():
    done = subprocess.run(
        [sys.executable, "train.py", "--dry_run", "--topology=v5e:3x7"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "error: --topology: must be such as v5e:2x4 or v4:2x2x4, got 'v5e:3x7'" in done.stderr


@needs_compiler
def test_gradients_alone_are_sent_between_the_chips_of_two_hosts():
    told, sent = dry_run("train", "--topology=v5e:2x4")
    assert "a step of 1024 examples on 8 x TPU v5 lite" in told
    num_params = int(told.split(" parameters")[0].split()[-1].replace(",", ""))
    assert set(sent) == {"all-reduce"}
    # And the loss; three digits are printed.
    assert sent["all-reduce"] == pytest.approx(4 * num_params, rel=0.01)
    estimate = told.splitlines().index(next(line for line in told.splitlines() if "by the compiler's estimate" in line))
    shares = [float(line.split()[2]) for line in told.splitlines()[estimate + 1 :] if " % " in line]
    assert len(shares) == 12
    assert shares == sorted(shares, reverse=True)
    assert 60 < sum(shares) <= 100.6
    assert "x update/" in told
    # The network is float32, and so are the products of its gradient.
    (products,) = (line for line in told.splitlines() if "products:" in line)
    assert re.fullmatch(r"  products: \d+ of f32 at precision highest", products)


@needs_compiler
def test_data_and_noise_are_made_on_the_chip_that_uses_them(tmp_path):
    code = """
import sys
from dpm_jax.cli import arguments, config_file
from dpm_jax.training import build, cost, feed, pod, programs
devices = pod.devices("v5e:2x4")
config = config_file.read("swiss_roll").config
source = build.source(config)
built = build.experiment(config, source.shape, source.standardization)
with arguments.mesh_context(config.mesh, None, devices) as on:
    program = programs.train_step(built, feed.open_feed(source.supply, 0, config.train.batch_size, 0, 1), on)
    open(sys.argv[1], "w").write(cost.compiled(program, devices).as_text())
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "hlo.txt")], cwd=ROOT, check=True, capture_output=True)
    text = (tmp_path / "hlo.txt").read_text()
    # Of 1024 examples each of 8 chips has 128.
    assert "f32[128,2]" in text
    assert "[1024,2]" not in text


@needs_compiler
@pytest.mark.parametrize(
    "name",
    [
        "heartbeat",
        "dead_leaves",
        pytest.param("bark", marks=needs_textures),
        pytest.param("cifar10", marks=needs_dataset("cifar10")),
        pytest.param("mnist", marks=needs_dataset("mnist")),
        pytest.param("mnist_bits", marks=needs_dataset("mnist")),
    ],
)
def test_shipped_configs_send_gradients_and_have_no_product_below_their_precision(name, tmp_path):
    """Networks of bits, and of images, whose convolutions have their own gradients (`nets.convolution`)."""
    data_dir = (
        [] if name in ("heartbeat", "dead_leaves") else [f"--data_dir={TEXTURES if name == 'bark' else TFDS_DIR}"]
    )
    told, sent = dry_run("train", f"--config={name}", *data_dir, "--topology=v5e:2x4", f"--workdir={tmp_path}")
    (products,) = (line for line in told.splitlines() if "products:" in line)
    assert re.fullmatch(r"  products: \d+ of f32 at precision highest", products)
    assert "all-reduce" in sent
    # The examples of which K has its fixed terms, where their number does not divide among the chips.
    few = sum(size for kind, size in sent.items() if kind != "all-reduce")
    assert set(sent) <= {"all-reduce", "collective-permute"}
    assert few < 0.05 * 2**20


@needs_compiler
def test_parameters_that_are_shared_out_are_gathered():
    wide = ["--config=swiss_roll", "--config.network.time_mlp.features=(256,256)", "--topology=v4:2x2x4"]
    whole, _ = dry_run("train", *wide)
    told, sent = dry_run("train", *wide, "--config.mesh.fsdp=4")
    assert "on 16 x TPU v4" in told
    assert sent["all-gather"] > 2**18

    def arguments(told):
        return float(told.split(" MiB of arguments")[0].split()[-1].replace(",", ""))

    assert arguments(told) < 0.5 * arguments(whole)


@needs_compiler
def test_sampling_and_evaluation_are_compiled_for_a_pod_too(tmp_path):
    assert run("train", f"--workdir={tmp_path}", *QUICK, "--config.train.steps=20").code == 0
    before = sorted(tmp_path.iterdir())
    told, sent = dry_run("sample", f"--workdir={tmp_path}", "--num_samples=512", "--topology=v5e:2x2")
    assert "a reverse step of 512 samples on 4 x TPU v5 lite" in told
    assert not sent
    told, _ = dry_run("evaluate", f"--workdir={tmp_path}", "--num_examples=63", "--topology=v4:2x2x1")
    assert "K of 63 examples, from one t each on 4 x TPU v4" in told
    assert sorted(tmp_path.iterdir()) == before
    refused(run("sample", f"--workdir={tmp_path}", "--dry_run", "--inpaint=held_out", "--mask=left"), "--dry_run")
