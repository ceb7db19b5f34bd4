"""What is installed: the wheel's content, and a third party's distribution that adds a framework."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest
from anysoft_conformance.suite import read_known_failures

import anysoft
from anysoft import registry

ROOT = Path(__file__).parent.parent
PLUGIN = Path(__file__).parent / "plugin"
MLX = Path(__file__).parent / "mlx_backend"
PACKAGES = {"anysoft": "anysoft", "anysoft_backends": "backends", "anysoft_conformance": "conformance"}


def _build(kind: str, project: Path, into: Path) -> Path:
    """Build a distribution, as an installer would: through the build backend's own hook."""
    pytest.importorskip("hatchling", reason="hatchling, which builds the distribution, is not installed")
    program = f"import sys, hatchling.build; hatchling.build.build_{kind}(sys.argv[1])"
    command = [sys.executable, "-c", program, str(into)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = into.iterdir()
    return built


def _install(wheel: Path, into: Path) -> Path:
    """All that installing a wheel without compiled parts or scripts is."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into)
    return into


def _distribution(folder: Path) -> PathDistribution:
    (info,) = folder.glob("*.dist-info")
    return PathDistribution(info)


def _python(program: str, cwd: Path, *before: Path) -> Any:
    """What the program, run elsewhere with the folders first on its path, prints as JSON."""
    path = os.pathsep.join([*map(str, before), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---------------------------------------------------------------------------------------------------------------------
# anysoft's own distribution


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which anysoft's wheel is installed."""
    wheel = _build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))
    return _install(wheel, tmp_path_factory.mktemp("site"))


def test_the_top_level_is_exactly_three_packages(site: Path) -> None:
    names = {path.name for path in site.iterdir()}
    assert names == {*PACKAGES, f"anysoft-{anysoft.__version__}.dist-info"}


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_typed(site: Path, package: str) -> None:
    assert (site / package / "py.typed").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_whole(site: Path, package: str) -> None:
    source = ROOT / package if package == "anysoft" else ROOT / PACKAGES[package] / package

    def files(folder: Path) -> set[str]:
        found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return {path.as_posix() for path in found if path.suffix != ".pyc"}

    assert files(site / package) == files(source)


def test_the_console_script_is_there(site: Path) -> None:
    points = _distribution(site).entry_points
    assert [(point.group, point.name, point.value) for point in points] == [
        ("console_scripts", "anysoft", "anysoft_conformance.cli:main"),
        ("pytest11", "anysoft_conformance", "anysoft_conformance.pytest_entry"),
    ]
    where = _python(
        "import json, anysoft_conformance.cli as cli; print(json.dumps([cli.__file__, callable(cli.main)]))", site, site
    )
    assert where == [str(site / "anysoft_conformance" / "cli.py"), True]


def test_it_depends_on_no_framework_but_numpy(site: Path) -> None:
    distribution = _distribution(site)
    always = [each for each in distribution.requires or () if "extra ==" not in each]
    assert sorted(always) == ["array-api-compat>=1.12", "numpy>=2.1"]
    assert distribution.version == anysoft.__version__
    assert distribution.metadata["Name"] == "anysoft"
    assert distribution.metadata["License-Expression"] == "BSD-3-Clause"


def test_the_installed_package_works_elsewhere(site: Path, tmp_path: Path) -> None:
    program = """
import json, sys, anysoft
value = anysoft.logsumexp([0.0, -40.0])
print(json.dumps([anysoft.__file__, sys.modules["anysoft_backends"].__file__, value]))
"""
    found = _python(program, tmp_path, site)
    folder = [str(site / name / "__init__.py") for name in ("anysoft", "anysoft_backends")]
    assert found == [*folder, 4.248354255291589e-18]


def test_the_sdist_holds_the_tests_and_gives_the_same_wheel(site: Path, tmp_path: Path) -> None:
    for name in ("sdist", "unpacked", "wheel", "site"):
        (tmp_path / name).mkdir()
    with tarfile.open(_build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (project,) = (tmp_path / "unpacked").iterdir()
    assert (project / "tests" / "plugin" / "toyarray.py").is_file()
    again = _install(_build("wheel", project, tmp_path / "wheel"), tmp_path / "site")

    def content(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    assert content(again) == content(site)


# ---------------------------------------------------------------------------------------------------------------------
# A third party's

# functions, special values, masks and everything near zero; the whole suite takes minutes
SOME = "test_suite and float32 and (moderate- or dominated- or masked_ or infinite- or nan_beside or spread or kept_)"

# Counts how often the entry points are looked up, without importing anything of the third party.
WATCH = """
import importlib.metadata, json, sys, warnings
looked_up, real = [], importlib.metadata.entry_points
importlib.metadata.entry_points = lambda **parameters: looked_up.append(parameters) or real(**parameters)
import anysoft
from anysoft import registry
"""


@pytest.fixture(scope="module")
def toy_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the toy framework's wheel is installed."""
    wheel = _build("wheel", PLUGIN, tmp_path_factory.mktemp("toy-wheel"))
    return _install(wheel, tmp_path_factory.mktemp("toy-site"))


def _suite(cwd: Path, *arguments: str, before: tuple[Path, ...]) -> subprocess.CompletedProcess[str]:
    """The suite as an author of a backend runs it, from another folder."""
    command = [sys.executable, "-m", "pytest", "--pyargs", "anysoft_conformance", "-q", *arguments]
    checkout = {str(ROOT), *(str(ROOT / name) for name in PACKAGES.values() if name != "anysoft")}
    path = os.pathsep.join([*map(str, before), *(each for each in sys.path if each and each not in checkout)])
    return subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path},
    )


def _advertise(folder: Path, **points: str) -> Path:
    """What an installed distribution with these entry points looks like."""
    info = folder / "third_party-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[anysoft.backends]", *lines, ""]))
    return folder


def test_a_third_partys_backend_is_chosen(toy_site: Path, tmp_path: Path) -> None:
    program = f"""{WATCH}
import toyarray
x = toyarray.ToyArray([1.0, 2.0])
explained = str(anysoft.explain("logsumexp", x))
kinds = [type(function(x)).__name__ for function in (anysoft.logsumexp, anysoft.softmax, anysoft.log_softmax)]
listed = [each.name for each in registry.installed()]
print(json.dumps([explained, kinds, listed, toyarray.__file__]))
"""
    explained, kinds, listed, file = _python(program, tmp_path, toy_site)
    assert explained == "logsumexp on toyarray: toy kernel"
    assert kinds == ["ToyArray"] * 3
    assert listed == [*registry._BUILT_IN, "toyarray"]
    assert Path(file).parent == toy_site


def test_entry_points_are_read_lazily_and_once(toy_site: Path, tmp_path: Path) -> None:
    program = f"""{WATCH}
at_import = [len(looked_up), "toyarray" in sys.modules]
anysoft.softmax([1.0, 2.0])
at_first_array = [len(looked_up), "toyarray" in sys.modules]
import numpy as np, toyarray
for x in (np.ones(3), np.float32(1), toyarray.ToyArray([1.0]), [1, 2], 3):
    anysoft.softmax(x)
    anysoft.explain("logsumexp", x)
print(json.dumps([at_import, at_first_array, looked_up]))
"""
    at_import, at_first_array, looked_up = _python(program, tmp_path, toy_site)
    assert at_import == [0, False]
    assert at_first_array == [1, True]
    (group,) = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]["entry-points"]
    assert looked_up == [{"group": group}]
    assert group == "anysoft.backends"


def test_a_fast_path_finds_a_backend_that_only_an_entry_point_names(toy_site: Path, tmp_path: Path) -> None:
    program = f"""{WATCH}
anysoft.register_fast_path("toyarray", anysoft.FastPath("logsumexp", "a faster one", lambda *_: "fast"))
import toyarray
print(json.dumps(anysoft.logsumexp(toyarray.ToyArray([1.0]))))
"""
    assert _python(program, tmp_path, toy_site) == "fast"


def test_an_entry_point_may_be_a_function_that_registers(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(
        "import anysoft\n"
        "def register():\n"
        "    row = anysoft.FastPath('logsumexp', 'a third kernel', lambda *_: 42.0)\n"
        "    anysoft.register_fast_path('numpy', row)\n"
    )
    site = _advertise(tmp_path, kernels="kernels:register")
    program = f"""{WATCH}
print(json.dumps([anysoft.logsumexp([1.0]), str(anysoft.explain("logsumexp", [1.0]))]))
"""
    assert _python(program, tmp_path, site) == [42.0, "logsumexp on numpy: a third kernel"]


def test_rows_by_address_are_imported_with_their_backend_only(tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text(
        "import anysoft\n"
        "ROWS = [anysoft.FastPath('logsumexp', name, lambda *_: name) for name in ('first', 'second')]\n"
        "ONE = anysoft.FastPath('softmax', 'one', lambda *_: 'one')\n"
    )
    (tmp_path / "kernels.py").write_text(
        "import anysoft\n"
        "def register():\n"
        "    anysoft.register_fast_path('dask', 'rows:ROWS')\n"
        "    anysoft.register_fast_path('numpy', 'rows:ONE')\n"
        "    anysoft.register_fast_path('numpy', 'rows:TWO')\n"
    )
    site = _advertise(tmp_path, kernels="kernels:register")
    program = f"""{WATCH}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    one = anysoft.softmax([1.0])
import dask.array
found = anysoft.explain("logsumexp", dask.array.ones(3))
print(json.dumps([one, found.path, anysoft.explain("logsumexp", [1.0]).path, [str(each.message) for each in caught]]))
"""
    *taken, (message,) = _python(program, tmp_path, site)
    assert taken == ["one", "first", "numpy kernel"]
    assert message.startswith("the rows for numpy at 'rows:TWO' failed: AttributeError")


BROKEN = {
    "no-module": ("no_such_module:BACKEND", "ModuleNotFoundError"),
    "no-attribute": ("broken:NO_SUCH_BACKEND", "AttributeError"),
    "raises-at-import": ("breaks:BACKEND", "ZeroDivisionError"),
    "raises-when-called": ("broken:register", "RuntimeError"),
    "no-backend": ("broken:NUMBER", "TypeError"),
    "name-taken": ("broken:NUMPY", "ValueError"),
    "unknown-operation": ("broken:SLIP", "LookupError"),
}


@pytest.mark.parametrize(("value", "error"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_entry_point_is_one_warning_and_nothing_else(
    toy_site: Path, tmp_path: Path, value: str, error: str
) -> None:
    (tmp_path / "breaks.py").write_text("1 / 0\n")
    (tmp_path / "broken.py").write_text(
        "import anysoft\n"
        "NUMBER = 3\n"
        "NUMPY = anysoft.Backend('numpy', (), lambda x: None)\n"
        "ROW = anysoft.FastPath('logsunexp', 'a slip', None)\n"
        "SLIP = anysoft.Backend('slip', (), lambda x: None, fast_paths=(ROW,))\n"
        "def register():\n"
        "    raise RuntimeError('out of order')\n"
    )
    # its distribution comes first, so that the sound one is read after it
    site = _advertise(tmp_path / "site", broken_one=value)
    program = f"""{WATCH}
import numpy as np
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    value = anysoft.logsumexp([0.0, -40.0])
    import toyarray
    explained = str(anysoft.explain("logsumexp", toyarray.ToyArray([1.0])))
    anysoft.softmax(np.ones(3))
print(json.dumps([[(each.category.__name__, str(each.message)) for each in caught], value, explained]))
"""
    caught, value_found, explained = _python(program, tmp_path, site, toy_site, tmp_path)
    ((category, message),) = caught
    assert category == "RuntimeWarning"
    assert message.startswith(f"the anysoft.backends entry point 'broken_one' ({value}) failed: {error}")
    assert value_found == 4.248354255291589e-18
    assert explained == "logsumexp on toyarray: toy kernel"


def test_the_suite_runs_on_a_backend_that_only_an_entry_point_names(site: Path, toy_site: Path, tmp_path: Path) -> None:
    done = _suite(tmp_path, "--backend", "toyarray", "-k", SOME, before=(toy_site, site))
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split(" passed")[0].split()[-1]) >= 80
    assert " failed" not in done.stdout
    assert " skipped" not in done.stdout


def test_a_kernel_that_its_guard_lets_do_too_much_is_caught(site: Path, tmp_path: Path) -> None:
    source = (PLUGIN / "toyarray.py").read_text()
    assert source.count("or x.shape[0] > 32") == 1
    (tmp_path / "toyarray.py").write_text(source.replace("or x.shape[0] > 32", ""))
    _advertise(tmp_path, toy="toyarray:BACKEND")
    done = _suite(tmp_path, "--backend", "toyarray", "-k", "logsumexp-vocabulary", before=(tmp_path, site))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "FAILED" in done.stdout
    assert "logsumexp-vocabulary-toyarray-cpu-float32-auto" in done.stdout
    assert "logsumexp-vocabulary-toyarray-cpu-float32-generic" not in done.stdout


def test_a_real_framework_as_a_third_partys(site: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="mlx is not installed; pip install 'mlx[cpu]'")
    (tmp_path / "wheel").mkdir()
    mlx_site = _install(_build("wheel", MLX, tmp_path / "wheel"), tmp_path / "site")
    done = _suite(tmp_path, "--backend", "mlx.core", "-k", SOME, before=(mlx_site, site))
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split(" passed")[0].split()[-1]) >= 80
    assert len((MLX / "anysoft_mlx.py").read_text().splitlines()) < 40


# ---------------------------------------------------------------------------------------------------------------------
# docs/backends.md, which tells a third party all this


def test_the_guide_shows_what_is_here() -> None:
    guide = (ROOT / "docs" / "backends.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "toml", "sh", "python", "toml"]
    adapter, project, commands, fast_path, known = (text for _, text in blocks)
    assert adapter == (MLX / "anysoft_mlx.py").read_text()
    assert project in (MLX / "pyproject.toml").read_text()
    assert "pytest --pyargs anysoft_conformance --backend mlx.core" in commands
    toy = (PLUGIN / "toyarray.py").read_text()
    assert all(part.strip() in toy for part in fast_path.split("\n\n\n"))
    (entry,) = read_known_failures(known)
    assert entry.covers("softmax-spread-mlx.core-cpu-float32-auto")
