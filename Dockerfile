# One image for every process: web (the default), worker, beat, flower, release. docker-compose.yml runs them all.
# The exact version; append @sha256:... to pin its content too.
FROM python:3.12.13-slim-trixie

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/tokentill

# Only what production imports: no embedded servers, no test tools. Wheels by their hash, nothing is compiled.
COPY requirements/runtime.lock requirements/
RUN pip install --require-hashes --only-binary :all: -r requirements/runtime.lock

COPY . .
# Compiled once here, as the user below can't write beside the code. It can where processes note that they live, and
# flower what it remembers.
RUN python -m compileall -q app worker migrations stack \
    && useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin tokentill \
    && install --directory --owner tokentill --mode 0700 /var/lib/tokentill
USER tokentill
ENV DATA_DIR=/var/lib/tokentill

# PATH finds `flask`: docker compose exec api flask --help
ENV HOST=0.0.0.0
EXPOSE 5000
# Of the API, which is what the image runs unless told otherwise; docker-compose.yml has those of the others.
HEALTHCHECK --interval=10s --timeout=5s --retries=3 --start-period=30s CMD ["python", "-m", "stack", "health", "web"]
ENTRYPOINT ["python", "-m", "stack", "run"]
CMD ["web"]
