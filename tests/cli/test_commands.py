"""A command line that was written for kube-proxy works as it stands."""

import pytest

from kubeproxy_py import __version__, cli


@pytest.mark.parametrize(
    "argv",
    [
        ["--version"],
        ["--version=true"],
        ["--version=raw"],
        ["run", "--version"],
        ["--config=/nonexistent", "--hostname-override=node-a", "--version"],
    ],
)
def test_the_version_is_told_wherever_it_is_asked_for(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    assert capsys.readouterr().out == f"kubeproxy-py {__version__}\n"


def test_the_words_of_kubeadm_s_manifest_are_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--config=/var/lib/nonexistent/config.conf", "--hostname-override=node-a"]) == 2
    assert "--config: can't read /var/lib/nonexistent/config.conf" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--cluster_cidr=10.0.0.0/33", "--cluster-cidr=10.0.0.0/33"])
def test_flags_may_have_underscores_for_dashes(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", flag]) == 2
    assert capsys.readouterr().out.startswith("--cluster-cidr: '10.0.0.0/33': not a network")


def test_underscores_of_values_stay(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "--config=/no_such_file"]) == 2
    assert "/no_such_file" in capsys.readouterr().err


def test_the_help_says_that_no_verb_means_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    assert "Without a verb it runs, as kube-proxy does" in " ".join(capsys.readouterr().out.split())
