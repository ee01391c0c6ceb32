# The runtime on a Jetson, above an image that has JetPack's own TensorRT and OpenCV. Built on a PC above a stand-in
# of such an image; not yet built on a Jetson.
#   docker build -f examples/deploy/jetpack.Dockerfile --build-arg BASE=YOUR_JETPACK_IMAGE -t dvfl-jetson .
#   docker run --rm --runtime nvidia -v dvfl-cache:/cache dvfl-jetson --demo --engine tensorrt
# A CSI camera is reached through the socket of the host's nvargus-daemon: -v /tmp/argus_socket:/tmp/argus_socket
# BASE: an image of your JetPack release with python3, tensorrt and cv2 importable, such as NVIDIA's l4t-jetpack
# with its OpenCV. Its packages must stay the system's, so the environment sees them and brings no cv2 of its own.
ARG BASE
FROM ${BASE}
WORKDIR /src
COPY . .
# 'numpy<2' for JetPack 6, whose cv2 and tensorrt are built for numpy 1; --build-arg NUMPY=numpy for JetPack 7
ARG NUMPY="numpy<2"
# hadolint ignore=DL3008
RUN python3 -c "import cv2, tensorrt" \
 && apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv \
 && rm -r /var/lib/apt/lists/* \
 && python3 -m venv --system-site-packages /opt/dvfl \
 && /opt/dvfl/bin/pip install --no-cache-dir "$NUMPY" '.[jetson]'
# TensorRT plans are built on the first start and kept here
ENV DVFL_CACHE_DIR=/cache
VOLUME /cache
WORKDIR /data
ENTRYPOINT ["/opt/dvfl/bin/dvfl-recognize"]
CMD ["--demo", "--engine", "tensorrt"]
