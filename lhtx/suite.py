"""A benchmark suite: experiments trained one after another, and one table of them. `python -m lhtx.suite NAME… [key=value…]`.

Every member is a `python -m lhtx.train` of its own, so that one which fails, or takes the memory with it, costs the others
nothing. What is finished is skipped when the same suite is started again, and what was interrupted goes on from its last
checkpoint. Knows nothing of networks, data or sweeps.
"""

import argparse
import csv
import fcntl
import hashlib
import io
import json
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import IO

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import OmegaConf, open_dict

from lhtx.checkpoints import load_checkpoint
from lhtx.compose import CONFIGS, build_datamodule, compose, describe
from lhtx.config_errors import near
from lhtx.errors import USER_ERRORS, ConfigError
from lhtx.files import ensure_directory, write_atomically
from lhtx.runs import METRICS_FILE, fail

ARCHITECTURES = ("mlp", "sdn", "cnn", "convnext", "efficientnet", "vit")
_CIFAR10 = tuple(f"cifar10_benchmark_{network}" for network in ("cnn", "convnext", "vit", "efficientnet"))
_CIFAR100 = tuple(f"cifar100_benchmark_{network}" for network in ("sdn", "cnn", "convnext", "vit", "efficientnet"))
_LOSSES = (
    *("soft_target", "weighted", "ordinal"),
    *("quantized_regression", "normalized_regression", "direct_regression", "index_regression"),
)
SUITES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "digits": tuple(f"digits_{network}" for network in ARCHITECTURES),
        "mnist": (*(f"mnist_{network}" for network in ARCHITECTURES), "mnist_multihead_cnn"),
        "mnist_benchmarks": ("mnist_benchmark_cnn", "mnist_benchmark_convnext", "mnist_vit_995"),
        "vimh": tuple(f"vimh_{network}" for network in ARCHITECTURES),
        "vimh_losses": tuple(f"vimh_{loss}" for loss in _LOSSES),
        "cifar10": _CIFAR10,
        "cifar100": (*_CIFAR100, "cifar100_coarse_cnn"),
        "cifar": (*_CIFAR10, *_CIFAR100, "cifar100_coarse_cnn"),
    }
)
"""Suite → its experiments, options of the config group `experiment`."""

INTERRUPTED = 130
"""The exit status of a training that was interrupted, and of a suite."""
MEMBER_FILE = "member.json"
LAST = Path("checkpoints") / "last.ckpt"
DATASET_KEYS = ("_target_", "data_dir", "classes", "generate")
"""Keys of `data` that tell one dataset from another."""
OWN_KEYS = ("experiment", "paths.output_dir", "ckpt_path", "task_name")
"""Keys that a suite sets itself for every member."""


@dataclass
class Member:
    """One experiment of a suite, and what came of it.

    Attributes:
        experiment: the option of the group `experiment`.
        config: the digest of its composed config, by which a second start knows whether it is still the same.
        status: `planned`, `finished`, `failed` or `interrupted`.
        network, parameters: the network's class and size, where they are known.
        epochs: trained, over all starts.
        best_val_acc: the best mean accuracy over the heads on the validation split.
        test_acc: that of the best checkpoint on the test split.
        seconds: of wall clock, start-up included, over all starts.
        error: the last line of what it said when it failed.
    """

    experiment: str
    config: str = ""
    status: str = "planned"
    network: str = ""
    parameters: int | None = None
    epochs: int | None = None
    best_val_acc: float | None = None
    test_acc: float | None = None
    seconds: float = 0.0
    error: str = ""


def members_of(names: Sequence[str]) -> list[str]:
    """The experiments that `names` mean, each once and in order: suites, experiments, or `experiment=NAME` for one that is
    called as a suite is. Raises ConfigError with near and accepted names."""
    experiments = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
    found: list[str] = []
    for name in names:
        plain = name.removeprefix("experiment=")
        if name in SUITES:
            found += SUITES[name]
        elif plain in experiments:
            found.append(plain)
        else:
            suites = f"The suites are {', '.join(SUITES)}; an experiment's name will do too"
            raise ConfigError(f"no suite or experiment is called {plain!r}. {near(plain, [*SUITES, *experiments])}. {suites}")
    if not found:
        raise ConfigError(f"which suite? Expected one of {', '.join(SUITES)}, or names of experiments")
    return list(dict.fromkeys(found))


def run_suite(names: Sequence[str], overrides: Sequence[str] = (), called: str | None = None) -> tuple[list[Member], Path]:
    """Trains the experiments of `names` that are not finished yet, and writes `suite.csv` and `suite.md` after each.

    Everything lies under `logs/suite/<called>/`: the tables, and one training run's directory a member. An interruption
    (Ctrl-C or SIGTERM) is handed on to the member and ends the suite with its tables written.

    Args:
        names: as for `members_of`.
        overrides: Hydra overrides for every member.
        called: the suite's directory; by default `names`, joined by `+`.

    Returns:
        The members, and the directory.

    Raises:
        ConfigError: an unknown name, overrides that a member does not compose with, another suite running in that directory,
            or one that was run there with another config.
    """
    experiments = members_of(names)
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0].partition("@")[0]
        if key in OWN_KEYS or key.startswith("hydra."):
            raise ConfigError(f"{override}: a suite sets {key} itself for each of its members; leave it out")
    called = called or "+".join(name.removeprefix("experiment=") for name in names)
    if called in (".", "..") or "/" in called:
        raise ConfigError(f"a suite cannot be called {called!r}; expected the name of a directory")
    digests, root = {}, Path()
    for experiment in experiments:
        try:
            cfg = compose([f"experiment={experiment}", *overrides])
        except ConfigError as error:
            raise ConfigError(f"experiment={experiment}: {error}") from error
        root = Path(cfg.paths.log_dir) / "suite" / called
        with open_dict(cfg):
            del cfg.paths  # where a project lies makes no other experiment of it
        digests[experiment] = hashlib.sha256(OmegaConf.to_yaml(cfg, sort_keys=True).encode()).hexdigest()[:16]
    ensure_directory(root, "the suite's directory (paths.log_dir)")
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"a suite is running in {root}; wait for it, or call this one otherwise: --as NAME") from None
        members = [_recorded(root, experiment, digest) for experiment, digest in digests.items()]
        _run(members, root, overrides, lock, _prepare(members, overrides))
    return members, root


def _recorded(root: Path, experiment: str, digest: str) -> Member:
    """The member as an earlier start left it; a planned one where there was none."""
    file = root / experiment / MEMBER_FILE
    if not file.exists():
        return Member(experiment, digest)
    try:
        member = Member(**json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file} is damaged ({error}); remove {file.parent} to train it again") from error
    if member.config != digest:
        if member.status != "finished" and not (root / experiment / LAST).exists():
            return Member(experiment, digest)  # it never got as far as an epoch
        raise ConfigError(
            f"{file.parent} was trained with another config than {experiment} has now. Call this suite otherwise "
            f"(--as NAME), or remove that directory to train it again"
        )
    return member


def _prepare(members: Sequence[Member], overrides: Sequence[str]) -> dict[str, str]:
    """Makes or fetches each dataset once, and fills in the networks and sizes; experiment → what is wrong with its dataset."""
    failures: dict[str, str] = {}  # by dataset; empty where it is there
    lacking = {}
    for member in members:
        if member.status == "finished":
            continue
        words = [f"experiment={member.experiment}", *overrides]
        cfg = compose(words)
        dataset = str([cfg.data.get(key) for key in DATASET_KEYS])
        try:
            datamodule = build_datamodule(cfg)
        except ConfigError:
            continue  # the member's training refuses it in the same words
        if dataset not in failures:
            failures[dataset] = ""
            try:
                datamodule.prepare_data()
            except USER_ERRORS as error:
                failures[dataset] = str(error)
                print(f"error: {error}", file=sys.stderr, flush=True)
        if failures[dataset]:
            lacking[member.experiment] = failures[dataset]
        try:
            described = describe(words, prepare=False)
        except USER_ERRORS:
            continue  # it needs the files, or the member's training refuses it in the same words
        member.network, member.parameters = described.network, described.parameters
    return lacking


def _run(members: Sequence[Member], root: Path, overrides: Sequence[str], lock: IO[str], lacking: Mapping[str, str]) -> None:
    """Trains the members in turn; those of `lacking`, experiment → error, fail at once."""
    for number, member in enumerate(members, start=1):
        output = root / member.experiment
        print(f"\n[{number}/{len(members)}] {member.experiment}: ", end="", flush=True)
        if member.status == "finished":
            print(f"finished before, test accuracy {_number(member.test_acc)}", flush=True)
            continue
        if error := lacking.get(member.experiment):
            print("failed, as there is no dataset for it", flush=True)
            member.status, member.error = "failed", error
            output.mkdir(exist_ok=True)
            _save(member, output)
            continue
        last = output / LAST
        goes_on = last.exists()
        print(f"goes on from {last}" if goes_on else output, flush=True)
        output.mkdir(exist_ok=True)
        arguments = [f"experiment={member.experiment}", *overrides, _override("paths.output_dir", output)]
        arguments += [_override("ckpt_path", last)] if goes_on else []
        _save(member, output)
        started = time.monotonic()
        ended = _train(arguments, lock)
        member.seconds = time.monotonic() - started + (member.seconds if goes_on else 0)
        if ended.status == 0 and (not ended.interrupted or (output / METRICS_FILE).exists()):
            _read_results(member, output, overrides)
        else:
            member.status = "interrupted" if ended.interrupted else "failed"
            member.error = ended.said.removeprefix("error: ") or f"ended with status {ended.status}"
        _save(member, output)
        write_tables(members, root)
        if ended.interrupted:  # even where this member came to its end: the next one is not to begin
            raise KeyboardInterrupt
    write_tables(members, root)


@dataclass(frozen=True)
class Ended:
    """How a training ended: its exit status, the last line that it said, and whether it was to be interrupted meanwhile."""

    status: int
    said: str = ""
    interrupted: bool = False


def _train(arguments: Sequence[str], lock: IO[str]) -> Ended:
    """Runs `python -m lhtx.train` and hands a SIGINT or SIGTERM on to it.

    It inherits the lock: should the suite be killed without notice, the training that goes on keeps others out.
    """
    process: subprocess.Popen[str] | None = None
    interrupted = False
    pending: deque[int] = deque()

    def deliver() -> None:
        while process is not None:
            try:
                number = pending.popleft()
            except IndexError:
                return
            process.send_signal(number)

    def hand_on(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        pending.append(number)
        deliver()

    command = [sys.executable, "-m", "lhtx.train", *arguments]
    # The handlers first: a signal that comes while the process starts waits for it.
    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # In a session of its own a Ctrl-C reaches it once, through this process, and not a second time from the terminal.
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, errors="replace", pass_fds=[lock.fileno()], start_new_session=True
        )
        deliver()
        said: deque[str] = deque(maxlen=1)
        for line in process.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            if line.strip():
                said.append(line.strip())
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return Ended(status, said[0] if said else "", interrupted or status == INTERRUPTED)


def _read_results(member: Member, output: Path, overrides: Sequence[str]) -> None:
    """What a finished training left: its metrics, epochs and size."""
    metrics = json.loads((output / METRICS_FILE).read_text())
    member.status, member.error = "finished", ""
    member.test_acc, member.best_val_acc = metrics.get("test/avg_acc"), metrics.get("val/acc_best")
    last = output / LAST
    member.epochs = load_checkpoint(last)["epoch"] + 1 if last.exists() else None
    if member.parameters is not None:  # known since the suite began
        return
    described = describe([f"experiment={member.experiment}", *overrides])
    member.network, member.parameters = described.network, described.parameters


def _save(member: Member, output: Path) -> None:
    write_atomically(output / MEMBER_FILE, json.dumps(asdict(member), indent=2) + "\n")


def write_tables(members: Sequence[Member], root: Path) -> None:
    """`suite.csv`, every field of every member, and `suite.md`, the same to be read."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Member)])
    writer.writeheader()
    writer.writerows(asdict(member) for member in members)
    write_atomically(root / "suite.csv", text.getvalue())
    write_atomically(root / "suite.md", markdown(members))


def markdown(members: Sequence[Member]) -> str:
    """The members as a Markdown table, with one line below it for each thing that made members fail."""
    columns: dict[str, Callable[[Member], str]] = {
        "experiment": lambda member: member.experiment,
        "network": lambda member: member.network,
        "parameters": lambda member: "" if member.parameters is None else f"{member.parameters:,}",
        "epochs": lambda member: "" if member.epochs is None else str(member.epochs),
        "best val acc": lambda member: _number(member.best_val_acc),
        "test acc": lambda member: _number(member.test_acc),
        "time": lambda member: f"{member.seconds // 60:.0f} min {member.seconds % 60:02.0f} s" if member.seconds else "",
        "status": lambda member: member.status,
    }
    rows = [list(columns), *([text(member) for text in columns.values()] for member in members)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    right = [heading in ("parameters", "epochs", "best val acc", "test acc", "time") for heading in columns]

    def line(row: Sequence[str]) -> str:
        cells = [f"{cell:>{w}}" if r else f"{cell:<{w}}" for cell, w, r in zip(row, widths, right, strict=True)]
        return f"| {' | '.join(cells)} |"

    rule = [("-" * (w - 1) + ":") if r else "-" * w for w, r in zip(widths, right, strict=True)]
    errors: dict[str, list[str]] = {}
    for member in members:
        if member.status == "failed":
            errors.setdefault(member.error, []).append(member.experiment)
    failures = [f"{', '.join(names)} failed: {error}" for error, names in errors.items()]
    table = "\n".join([line(rows[0]), line(rule), *(line(row) for row in rows[1:])])
    return "\n\n".join([table, *failures]) + "\n"


def _number(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.4f}"


def _override(key: str, path: Path) -> str:
    """A path as an override, whatever characters it has."""
    return f"{key}={QuotedString(str(path), Quote.single).with_quotes()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit status 0: all finished; 1: one failed at least; 2: refused; 130: interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m lhtx.suite",
        description="Train experiments one after another and tabulate them. The same command again goes on where it stopped.",
        epilog="suites:\n" + "\n".join(f"  {name:<16} {' '.join(members)}" for name, members in SUITES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="+", metavar="NAME|key=value", help="suites, experiments, overrides for all of them")
    parser.add_argument("--as", dest="called", metavar="NAME", help="the suite's directory under logs/suite")
    options = parser.parse_intermixed_args(arguments)
    names = [word for word in options.words if word.startswith("experiment=") or ("=" not in word and word[0] not in "+~")]
    overrides = [word for word in options.words if word not in names]
    try:
        members, root = run_suite(names, overrides, options.called)
    except USER_ERRORS as error:
        fail(error)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on")
        return INTERRUPTED
    print(f"\n{markdown(members)}\ntables and runs: {root}")
    return int(any(member.status != "finished" for member in members))


if __name__ == "__main__":
    sys.exit(main())
