"""What all tests share: shapes checked at run time, and the real corpora."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Small models gain nothing by a second thread, and wait for it where a core is busy; a child process inherits this.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before anything imports itda: annotated shapes and types are checked while the tests run; an int may be a float.
install_import_hook("itda", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of real corpora: ITDA_DATA, or shared/corpora beside the checkout; CI may not do without it."""
    named = os.environ.get("ITDA_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "corpora"
    if not folder.is_dir():
        reason = f"no corpora at {folder}; set ITDA_DATA to the folder that holds them"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
