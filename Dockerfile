# voicevault's HTTP service. Build: docker build -t voicevault . Run:
#   docker run -p 127.0.0.1:8420:8420 -v voicevault:/data voicevault
# With the port published on loopback, only this machine reaches it; it asks for no password.

FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The dependencies alone first: they are large and change less often than the code.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir voicevault migrations && touch voicevault/__init__.py \
    && pip install --constraint constraints.txt . \
    && pip uninstall --yes voicevault \
    && rm -r voicevault migrations
COPY migrations migrations
COPY voicevault voicevault
RUN pip install --no-deps .

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home voicevault && install -d -m 700 -o voicevault /data
COPY --from=build /opt/venv /opt/venv
# Inside the container it must listen beyond loopback, or no published port would reach it. It answers to localhost
# and to IP addresses; for any other name, set VOICEVAULT_ALLOWED_HOSTS.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VOICEVAULT_HOME=/data \
    VOICEVAULT_HOST=0.0.0.0 \
    VOICEVAULT_PORT=8420
USER voicevault
VOLUME /data
EXPOSE 8420
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['VOICEVAULT_PORT']}/readyz\", timeout=4)"]
CMD ["voicevault", "serve"]
