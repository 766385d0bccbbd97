FROM python:3.13-slim AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/holdfast
COPY requirements-server.lock ./
RUN /opt/holdfast/bin/pip install --only-binary=:all: --require-hashes --requirement requirements-server.lock
COPY pyproject.toml README.md LICENSE ./
COPY checkpointer ./checkpointer
COPY orchestrator ./orchestrator
RUN /opt/holdfast/bin/pip install --no-deps .

FROM python:3.13-slim

RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin holdfast \
    && install -d -o 10001 -m 700 /var/lib/holdfast
COPY --from=build /opt/holdfast /opt/holdfast
# Fewer malloc arenas: large values come and go in several threads, and each arena keeps its own peak.
ENV PATH=/opt/holdfast/bin:$PATH PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=2
WORKDIR /srv
USER 10001
EXPOSE 3456
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '3456') + '/api/health/ready', timeout=3)"]
ENTRYPOINT ["holdfast"]
CMD ["serve"]
