"""The files that start Tokentill somewhere say the same thing everywhere."""

import json
import re
import tomllib
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from stack.health import CHECKS
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

    def test_every_queue_is_consumed_by_one_kind_of_worker(self) -> None:
        consumed = {
            name: set(found[1].split(","))
            for name, command in commands().items()
            if (found := re.search(r"-Q (\S+)", command)) is not None
        }
        assert consumed == {"worker": QUEUES, "webhooks": {"webhooks"}}

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

    def test_is_what_compose_reads(self, compose: dict[str, Any]) -> None:
        # The Compose Specification's own schema (Apache-2.0), of 2021: what it knows, every Compose of today knows. It
        # lacks the project's name, which came a little later.
        schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
        named = {key: value for key, value in compose.items() if key != "name"}
        assert [error.message for error in jsonschema_rs.validator_for(schema).iter_errors(named)] == []
        broken = {**named, "services": {"api": {"imagine": "tokentill"}}}
        assert not jsonschema_rs.validator_for(schema).is_valid(broken)

    def test_images_have_exact_versions(self, compose: dict[str, Any]) -> None:
        images = [service["image"] for service in compose["services"].values() if "build" not in service]
        images += re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        assert len(images) == 4
        for image in images:
            assert re.fullmatch(r"[a-z]+:\d+(\.\d+)+-[a-z-]+", image), image

    def test_every_service_is_looked_after(self, compose: dict[str, Any]) -> None:
        for name, service in compose["services"].items():
            assert service["mem_limit"], name
            assert service["cpus"] > 0, name
            assert service["pids_limit"] > 0, name
            assert service["logging"] == {
                "driver": "json-file",
                "options": {"max-size": "20m", "max-file": "5"},
            }, name
            # Which runs to its end.
            assert ("healthcheck" in service) == (name != "migrate"), name
        for name in CHECKS:
            service = compose["services"]["api" if name == "web" else name]
            assert service["healthcheck"]["test"] == ["CMD", "python", "-m", "stack", "health", name]

    def test_containers_may_do_nothing_that_they_need_not(self, compose: dict[str, Any]) -> None:
        for name, service in compose["services"].items():
            # Postgres's image begins as root, and becomes another user by itself.
            if name != "postgres":
                assert service["read_only"] is True, name
                assert service["cap_drop"] == ["ALL"], name
                assert service["security_opt"] == ["no-new-privileges:true"], name

    def test_users_without_rights_can_write_where_they_have_to(self, compose: dict[str, Any]) -> None:
        """Over a folder that the image has, Docker lays a file system with that folder's mode, whose owner is root."""
        user = re.search(r"useradd .*--uid (\d+)", (ROOT / "Dockerfile").read_text())
        assert user is not None
        for service in compose["services"].values():
            for mount in service.get("tmpfs", ()):
                assert mount in ("/tmp", f"/var/lib/tokentill:uid={user[1]},mode=0700")  # noqa: S108 - the container's

    def test_fixed_addresses_are_given_to_nobody_else(self, compose: dict[str, Any]) -> None:
        [config] = compose["networks"]["default"]["ipam"]["config"]
        fixed = [
            ip_address(service["networks"]["default"]["ipv4_address"])
            for service in compose["services"].values()
            if "networks" in service
        ]
        # The API's is looked up once by the proxy, and the proxy's is what the API believes.
        assert len(set(fixed)) == 2
        for address in fixed:
            assert address in ip_network(config["subnet"])
            assert address not in ip_network(config["ip_range"])
            assert address != ip_address(config["gateway"])

    def test_two_workers_and_one_beat(self, compose: dict[str, Any]) -> None:
        assert compose["services"]["worker"]["deploy"]["replicas"] == 2
        assert "deploy" not in compose["services"]["beat"]

    def test_flower_keeps_its_history(self, compose: dict[str, Any]) -> None:
        assert "ENV DATA_DIR=/var/lib/tokentill" in (ROOT / "Dockerfile").read_text()
        assert compose["services"]["flower"]["volumes"] == ["flower:/var/lib/tokentill"]
        assert "/var/lib/tokentill" not in compose["services"]["flower"]["tmpfs"]

    def test_no_secret_stands_in_a_command_line(self, compose: dict[str, Any]) -> None:
        for name, service in compose["services"].items():
            words = [*service.get("command", []), *service.get("healthcheck", {}).get("test", [])]
            # `$$` is the shell's in the container, whose built-in printf is no program of its own.
            assert not re.search(r"(?<!\$)\$\{?\w*(PASSWORD|KEY|AUTH)", " ".join(words)), name

    def test_redis_keeps_what_it_is_given(self, compose: dict[str, Any]) -> None:
        lines = (ROOT / "deploy" / "redis.conf").read_text().splitlines()
        assert {"appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"} < set(lines)
        redis = compose["services"]["redis"]
        assert "./deploy/redis.conf:/etc/tokentill/redis.conf:ro" in redis["volumes"]
        # Room for the copy that a rewrite of the append-only file may make.
        assert ("maxmemory 768mb" in lines, redis["mem_limit"]) == (True, "1536m")

    def test_only_this_machine_reaches_any_port_but_the_proxys(self, compose: dict[str, Any]) -> None:
        ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
        assert set(ports) == {"api", "flower", "proxy"}
        assert all(port.startswith("127.0.0.1:") for name in ("api", "flower") for port in ports[name])
        assert compose["services"]["proxy"]["profiles"] == ["tls"]

    def test_the_api_believes_the_proxy_and_nobody_else(self, compose: dict[str, Any]) -> None:
        address = compose["services"]["proxy"]["networks"]["default"]["ipv4_address"]
        assert compose["services"]["api"]["environment"]["TRUSTED_PROXIES"] == f"${{TRUSTED_PROXIES:-{address}}}"
        assert "proxy_set_header X-Forwarded-For $remote_addr;" in (ROOT / "deploy" / "nginx.conf").read_text()


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
