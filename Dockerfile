# One image for every process: web (the default), worker, beat, flower, release. docker-compose.yml runs them all.
# The exact version; append @sha256:... to pin its content too.
FROM python:3.12.13-slim-trixie

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/tokentill

# Only the packages that production imports: no embedded servers, no test tools. Hash-checked wheels; nothing is built.
COPY requirements/runtime.lock requirements/
RUN pip install --require-hashes --only-binary :all: -r requirements/runtime.lock

COPY . .
# Compile once here, as the user below can't write beside the code. It can write to /var/lib/tokentill, where processes
# report that they are alive and flower keeps its history.
RUN python -m compileall -q app worker migrations stack \
    && useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin tokentill \
    && install --directory --owner tokentill --mode 0700 /var/lib/tokentill
USER tokentill
ENV DATA_DIR=/var/lib/tokentill

# PATH finds `flask`: docker compose exec api flask --help
ENV HOST=0.0.0.0
EXPOSE 5000
# The health check of the API, which the image runs by default; docker-compose.yml has those of the other processes.
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=30s CMD ["python", "-m", "stack", "health", "web"]
ENTRYPOINT ["python", "-m", "stack", "run"]
CMD ["web"]
