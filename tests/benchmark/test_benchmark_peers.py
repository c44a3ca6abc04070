"""The peers do the same work as ours: the PyTorch network against the authors', the features against openSMILE's."""

import numpy as np
import pytest
from golden_arrays import SYNTHETIC, golden, part

from dslstm_jax.benchmark.peers import LibrosaOpenSmile, ds_lstm_peers
from dslstm_jax.config import Config, FeaturesConfig
from dslstm_jax.interop.torch import config_for

torch = pytest.importorskip("torch")

from dslstm_jax.benchmark.peers_torch import DSLSTM, DSLSTMCell, HoistedCell, Recognizer  # noqa: E402


def tensors(arrays):
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}


def network(arrays, prefix):
    state = part(arrays, prefix)
    built = Recognizer(config_for(state, Config()), classes=4)
    built.load_state_dict(tensors(state))
    spectrograms = [torch.from_numpy(arrays[f"input/mel_{n_fft}_db"]) for n_fft in (512, 1024)]
    lengths = torch.from_numpy(arrays["input/mfcc_lengths"]).long()
    return built, (spectrograms, torch.from_numpy(arrays["input/mfcc"]), lengths)


@pytest.mark.parametrize("name", ["dual_level_small", "dual_level_paper"])
def test_the_networks_logits_equal_the_authors(name):
    arrays = golden(f"torch_{name}")
    built, inputs = network(arrays, "after3/")
    with torch.no_grad():
        raw, hand = built.eval()(*inputs)
    np.testing.assert_allclose(raw, arrays["eval/classification_raw"], atol=1e-5)
    np.testing.assert_allclose(hand, arrays["eval/classification_hand"], atol=1e-5)


def test_the_networks_losses_equal_the_authors():
    arrays = golden("torch_dual_level_small")
    built, inputs = network(arrays, "init/")
    optimizer, losses = torch.optim.Adam(built.parameters(), 1e-3), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = built.train().loss(built(*inputs), torch.from_numpy(arrays["input/labels"]).long())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, arrays["train_losses"], atol=1e-5)


def test_hoisted_products_change_no_number():
    torch.manual_seed(0)
    x, y, outputs, gradients = torch.randn(16, 5, 6), torch.randn(16, 5, 7), [], []
    state = DSLSTM(6, 7, hidden=3, layers=2, steps=5).state_dict()
    for cell in (DSLSTMCell, HoistedCell):
        net = DSLSTM(6, 7, 3, 2, 5, cell)
        net.load_state_dict(state)
        found = net(x, y)
        (found * x[..., :3]).mean().backward()
        outputs.append(found.detach())
        gradients.append([parameter.grad for parameter in net.parameters()])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_without_torch_there_are_no_loops(monkeypatch):
    monkeypatch.setattr("dslstm_jax.benchmark.peers.installed", lambda *_: False)
    assert ds_lstm_peers(np.zeros((1, 2, 3)), np.zeros((1, 2, 4)), 5, 1, "train") == []


@pytest.mark.parametrize("name", SYNTHETIC)
def test_librosa_and_opensmile_make_the_same_features(name):
    pytest.importorskip("librosa")
    pytest.importorskip("opensmile")
    arrays = golden(f"features_{name}")
    spectrograms, mfcc, lengths = LibrosaOpenSmile(FeaturesConfig())([arrays["samples_int16"] / np.float32(32768)])
    np.testing.assert_allclose(mfcc[0], arrays["mfcc12_e_d_a"], atol=2e-3)
    assert lengths.tolist() == [len(arrays["mfcc12_e_d_a"])]
    for found, n_fft in zip(spectrograms, (512, 1024), strict=True):
        np.testing.assert_allclose(found[0, 0], arrays[f"mel_db_resized_{n_fft}"], atol=1e-2)
