# Two images: `app` is every part of the product (a service is a command of it), `label-studio` is the Label Studio that
# it is tested with, in an environment of its own. Both run as an ordinary user without any capability.
FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN groupadd --gid 10001 mpamatch \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin mpamatch

FROM base AS app-build
RUN python -m venv /opt/mpamatch
WORKDIR /source
COPY requirements/constraints.txt requirements/
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY mpamatch mpamatch
COPY backend backend
COPY workers workers
COPY migrations migrations
RUN /opt/mpamatch/bin/pip install -c requirements/constraints.txt '.[text]'

FROM base AS app
COPY --from=app-build /opt/mpamatch /opt/mpamatch
# A volume that is mounted here for the first time takes this owner over.
RUN install -d -o 10001 -g 10001 -m 0700 /state
ENV PATH=/opt/mpamatch/bin:$PATH HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib MPAMATCH_STATE=/state
WORKDIR /state
USER 10001:10001
CMD ["mpamatch", "--help"]

FROM base AS label-studio-build
RUN python -m venv /opt/label-studio
COPY requirements/label-studio.txt /
RUN /opt/label-studio/bin/pip install -r /label-studio.txt

FROM base AS label-studio
COPY --from=label-studio-build /opt/label-studio /opt/label-studio
# On SQLite two people who ask at once would get one task: its interpreter reads this at its start (PYTHONPATH).
COPY backend/label_studio_turns.py /opt/turns/sitecustomize.py
RUN install -d -o 10001 -g 10001 -m 0700 /label-studio
ENV PATH=/opt/label-studio/bin:$PATH HOME=/label-studio
WORKDIR /label-studio
USER 10001:10001
CMD ["label-studio", "--help"]
