# One image for each service, from one file:
#   docker build --build-arg SERVICE=gateway -t orbit-engine/gateway:dev .
# SERVICE: gateway, storage, coordinator, cdc or migrator. Everything but the last layer is shared between them.

FROM python:3.12-slim-bookworm AS packages
WORKDIR /build
COPY requirements/base.txt requirements/base.txt
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/base.txt

FROM python:3.12-slim-bookworm
RUN groupadd --gid 10001 orbit \
    && useradd --uid 10001 --gid orbit --home-dir /var/lib/orbit --no-create-home --shell /usr/sbin/nologin orbit \
    && install -d -o orbit -g orbit -m 0750 /var/lib/orbit /var/lib/orbit-catalog
COPY --from=packages /opt/venv /opt/venv
WORKDIR /opt/orbit
COPY orbit orbit
COPY services services
# Bytecode is compiled once, here: the running user cannot write to the program.
RUN /opt/venv/bin/python -m compileall -q orbit services
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORBIT_DATA_DIR=/var/lib/orbit \
    ORBIT_BIND_ADDRESS=0.0.0.0
USER 10001:10001
# PostgreSQL, Redis, REST; between nodes; operations
EXPOSE 5432 6379 8080 7000 9090
STOPSIGNAL SIGTERM
ARG SERVICE
RUN test -f "services/${SERVICE}/__main__.py" || { echo "SERVICE=${SERVICE} names no service" >&2; exit 1; }
ENV SERVICE=$SERVICE
# exec: the service itself is process 1 and gets the signals.
CMD ["sh", "-c", "exec python -m services.$SERVICE"]
