# One image for every process: web (the default), worker, beat, flower, release. docker-compose.yml runs them all.
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /srv/tokentill

# Only what production imports: no embedded servers, no test tools. Wheels by their hash, nothing is compiled.
COPY requirements/runtime.lock requirements/
RUN pip install --require-hashes --only-binary :all: -r requirements/runtime.lock

COPY . .
# Compiled once here, as the user below can't write beside the code.
RUN python -m compileall -q app worker migrations stack \
    && useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin tokentill
USER tokentill

# PATH finds `flask`: docker compose exec api flask --help
ENV HOST=0.0.0.0
EXPOSE 5000
ENTRYPOINT ["python", "-m", "stack", "run"]
CMD ["web"]
