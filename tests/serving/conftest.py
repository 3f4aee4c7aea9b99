"""One tiny model, and one server of it, for all tests of the API."""

import pytest


@pytest.fixture(scope="package")
def case():
  pytest.importorskip("openai")
  pytest.importorskip("uvicorn")
  pytest.importorskip("starlette")
  from tests.serving import served  # imports the extras
  return served.tiny()


@pytest.fixture(scope="package")
def shared(case):
  from tests.serving import served
  with served.served(case) as pair:
    yield pair
