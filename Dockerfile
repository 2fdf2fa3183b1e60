# An image for JupyterHub: each student has an own copy of the workbook in the home folder.
#   docker build -t labkit-hub .
# The wheel is built apart, so that no layer of the image has the solutions of the assignments.
FROM python:3.12-slim AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM quay.io/jupyter/minimal-notebook:python-3.12
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        "$(echo /tmp/wheels/labkit-*.whl)[pretrained]" \
    && labkit notebooks list
COPY docker/jupyter_server_config.json /etc/jupyter/jupyter_server_config.d/labkit.json
COPY labkit/jupyter/labconfig/default_setting_overrides.json /opt/conda/share/jupyter/lab/settings/overrides.json
COPY --chmod=755 docker/copy_workbook.sh /usr/local/bin/before-notebook.d/50-copy-workbook.sh
