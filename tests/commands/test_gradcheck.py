"""``metarl gradcheck`` and the library in ten lines, as the README has them."""

import re
from pathlib import Path

import pytest

from metarl.commands.main import gradcheck

README = (Path(__file__).parents[2] / "docs" / "library.md").read_text()


def snippet(containing: str) -> str:
    """The README's one Python example that contains something."""
    (found,) = (
        text for text in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if containing in text
    )
    return found


def test_the_readmes_library_example_meta_trains(capsys):
    """What it prints is the loss after one inner step: it falls, and by far."""
    exec(compile(snippet("mean_and_grad"), "library.md", "exec"), {})
    losses = [float(line) for line in capsys.readouterr().out.split()]
    assert len(losses) > 3
    assert losses[-1] < 0.5 * losses[0]


def test_the_readmes_gradcheck_example_is_right(tmp_path: Path, capsys):
    (tmp_path / "mine.py").write_text(snippet("def loss(predict, batch)"))
    assert gradcheck([str(tmp_path / "mine.py"), "--steps", "2", "--rate", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "DIFFERS" not in out
    assert out.count(" ok") >= 4


def test_a_loss_that_loses_a_gradient_is_found(tmp_path: Path, capsys):
    wrong = snippet("def loss(predict, batch)").replace(
        "predict(x)", "predict(x).detach() + 0 * x[:, :1]"
    )
    assert wrong != snippet("def loss(predict, batch)")
    (tmp_path / "mine.py").write_text(wrong)
    assert gradcheck([str(tmp_path / "mine.py")]) == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_a_module_is_checked_as_it_is_trained(tmp_path: Path, capsys):
    """Batch norm by the batch at hand; frozen parameters are constants."""
    changed = snippet("def loss(predict, batch)").replace(
        "torch.nn.Tanh(),", "torch.nn.BatchNorm1d(8), torch.nn.Tanh(),"
    )
    (tmp_path / "mine.py").write_text(f"{changed}\nmodule[0].requires_grad_(False)\n")
    assert gradcheck([str(tmp_path / "mine.py"), "--rate", "0.1"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^ *([\d.]+\w+)", out, re.MULTILINE) == [
        *("1.weight", "1.bias", "3.weight", "3.bias")
    ]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "import torch; module = torch.nn.Linear(1, 1).requires_grad_(False)\n"
            "loss = support = query = 3",
            "module in .*: none of its parameters has requires_grad",
        ),
        ("", "should define module, a torch.nn.Module; loss, a function"),
        ("module = loss = support = query = 3", "module in .* should be a torch.nn.Module"),
        ("1 / 0", "mine.py fails: ZeroDivisionError: division by zero"),
        ("def f(:", "mine.py fails: SyntaxError"),
        (
            "import torch; module = torch.nn.Linear(1, 1); support = query = torch.ones(2, 1)\n"
            "def loss(predict, batch): return predict(batch)",
            "the objective should be a finite scalar|grad requires a scalar|scalar",
        ),
    ],
)
def test_a_file_that_cannot_be_checked_is_refused_in_one_line(
    tmp_path: Path, capsys, source: str, said: str
):
    (tmp_path / "mine.py").write_text(source)
    assert gradcheck([str(tmp_path / "mine.py")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(said, error)


def test_a_missing_file_is_refused(tmp_path: Path, capsys):
    assert gradcheck([str(tmp_path / "missing.py")]) == 2
    assert "there is no file" in capsys.readouterr().err
