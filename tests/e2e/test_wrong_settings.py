"""What each service tells of its settings when it is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.stack import Service
from support.waiting import PATIENCE_S


@pytest.mark.parametrize("module", ["sd_auth", "sd_gateway", "sd_worker"])
def test_all_wrong_settings_are_told_at_once_whatever_part_they_are_for(tmp_path: Path, module: str) -> None:
    wrong = {"NATS_URL": "http://127.0.0.1:1", "LOG_LEVEL": "LOUD", "HEALTH_PORT": "none"}
    right = {"SECRET_KEY": "x" * 40, "MINIO_ACCESS_KEY": "nobody", "MINIO_SECRET_KEY": "no-secret"}
    service = Service(module, tmp_path, right | wrong)

    assert service.process.wait(PATIENCE_S) == 2
    first, *lines = service.log.splitlines()[-1 - len(wrong) :]
    assert first == "Wrong settings:"
    assert {line.split(":")[0].strip() for line in lines} == wrong.keys()
    assert "Traceback" not in service.log
