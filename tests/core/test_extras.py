import pytest

from danlu.core import hub
from danlu.core.errors import RequestError
from danlu.core.extras import need


def test_a_missing_library_is_named_with_the_command_that_brings_it() -> None:
    assert need("json.decoder", extra="x").__name__ == "json.decoder"
    with pytest.raises(RequestError, match=r"lion needs the library no_such_thing.*pip install 'danlu\[optimizers\]'"):
        need("no_such_thing.part", extra="optimizers", what="lion")


def test_hub_is_asked_once_and_not_when_told_to_stay_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        hub.hub_reachable.cache_clear()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert not hub.hub_reachable()
        hub.hub_reachable.cache_clear()
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        for name in hub._PROXIES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        assert not hub.hub_reachable()
        hub.hub_reachable.cache_clear()
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        assert hub.hub_reachable()
    finally:
        hub.hub_reachable.cache_clear()
