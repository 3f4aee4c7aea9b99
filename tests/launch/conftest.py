from tests.experiments.conftest import model_file  # noqa: F401 - a fixture
