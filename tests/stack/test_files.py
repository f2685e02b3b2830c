"""The files that start Tokentill somewhere say the same thing everywhere."""

import re
import tomllib
from typing import Any

import pytest
import yaml

from stack.procfile import ROOT, commands
from stack.up import PROCESSES

QUEUES = {"settle", "retry", "maintenance"}
LOCKS = ("runtime", "dev", "servers")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==(\S+)", text, re.MULTILINE))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;~! ]", requirement)[0] for requirement in requirements}


class TestProcfile:
    def test_has_every_process(self) -> None:
        assert set(commands()) == {*PROCESSES, "release"}

    def test_the_worker_consumes_every_queue(self) -> None:
        found = re.search(r"-Q (\S+)", commands()["worker"])
        assert found is not None
        assert set(found[1].split(",")) == QUEUES

    def test_processes_take_the_place_of_the_shell(self) -> None:
        # Otherwise signals would reach the shell and not the process.
        assert all("exec " in command for command in commands().values())

    def test_runs_what_the_project_installs(self) -> None:
        programs = {command.rpartition("exec ")[2].split()[0] for command in commands().values()}
        assert programs == {"granian", "celery", "alembic"}
        assert programs <= set(locked("runtime"))


class TestCompose:
    def test_has_the_stores_and_one_container_for_each_process(self, compose: dict[str, Any]) -> None:
        started = {service["command"][0] for service in compose["services"].values() if "build" in service}
        assert started == set(commands())
        assert {"postgres", "redis"} < set(compose["services"])

    def test_the_image_starts_a_procfile_line(self) -> None:
        text = (ROOT / "Dockerfile").read_text()
        assert 'ENTRYPOINT ["python", "-m", "stack", "run"]' in text
        assert 'CMD ["web"]' in text
        assert "USER tokentill" in text
        assert "--require-hashes --only-binary :all: -r requirements/runtime.lock" in text

    def test_the_image_gets_every_folder_that_the_processes_need(self) -> None:
        ignored = (ROOT / ".dockerignore").read_text().split()
        needed = (
            "app",
            "worker",
            "migrations",
            "stack",
            "alembic.ini",
            "Procfile",
            "requirements/runtime.lock",
        )
        assert ignored[0] == "*"
        assert {f"!{path}" for path in needed} <= set(ignored)

    def test_migrations_end_before_anything_else_starts(self, compose: dict[str, Any]) -> None:
        for name, service in compose["services"].items():
            if "build" in service and name != "migrate":
                assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
                assert service["depends_on"]["postgres"] == {"condition": "service_healthy"}
                assert service["depends_on"]["redis"] == {"condition": "service_healthy"}
        assert compose["services"]["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}

    def test_secrets_have_to_be_given(self, compose: dict[str, Any]) -> None:
        text = (ROOT / "docker-compose.yml").read_text()
        for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "SERVER_API_KEY", "ADMIN_API_KEY"):
            assert f"${{{name}:?" in text
            assert f"${{{name}:-" not in text
        assert "${FLOWER_BASIC_AUTH:?" in compose["services"]["flower"]["environment"]["FLOWER_BASIC_AUTH"]
        assert compose["services"]["api"]["environment"]["TOKENTILL_MODE"] == "production"

    def test_redis_keeps_what_it_is_given(self, compose: dict[str, Any]) -> None:
        command = compose["services"]["redis"]["command"]
        options = dict(zip(command[1::2], command[2::2], strict=True))
        assert options["--appendonly"] == "yes"
        assert options["--appendfsync"] == "everysec"
        assert options["--maxmemory-policy"] == "noeviction"

    def test_only_this_machine_reaches_the_ports(self, compose: dict[str, Any]) -> None:
        ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
        assert len(ports) == 2
        assert all(port.startswith("127.0.0.1:") for port in ports)


class TestLocks:
    @pytest.mark.parametrize("name", LOCKS)
    def test_every_package_has_hashes_and_no_place_of_its_own(self, name: str) -> None:
        text = (ROOT / "requirements" / f"{name}.lock").read_text()
        for block in re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]:
            assert block.startswith("#") or "--hash=sha256:" in block, block
        assert "://" not in text
        assert "--index" not in text

    def test_locks_hold_what_the_project_asks_for(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        assert names(project["project"]["dependencies"]) <= set(locked("runtime"))
        assert names(project["dependency-groups"]["dev"]) <= set(locked("dev"))
        assert names(project["dependency-groups"]["local"]) == set(locked("servers"))

    def test_tests_run_on_what_production_runs_on(self) -> None:
        assert locked("runtime").items() <= locked("dev").items()

    def test_servers_are_no_part_of_production(self) -> None:
        assert set(locked("servers")).isdisjoint(locked("runtime"))


class TestMakefile:
    def test_help_names_every_target(self) -> None:
        text = (ROOT / "Makefile").read_text()
        phony = re.search(r"^\.PHONY: (help .*)$", text, re.MULTILINE)
        assert phony is not None
        assert set(phony[1].split()) == set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))

    def test_continuous_integration_runs_the_developers_check(self) -> None:
        script = ROOT / ".ci" / "run"
        assert "make check" in script.read_text()
        assert script.stat().st_mode & 0o111
