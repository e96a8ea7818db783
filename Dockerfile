# An image to train on NVIDIA GPUs:
#   docker build -t dystress .
#   docker run --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" dystress train
# JAX brings the CUDA libraries. The host has the driver and the NVIDIA Container Toolkit.
FROM python:3.13-slim

WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY dystress_jax dystress_jax
# What pyproject.toml asks for is the pin.
# hadolint ignore=DL3013
RUN python -m pip install --no-cache-dir '.[train,hf]' 'jax[cuda13]>=0.10'

# For any user of the host, whose files the runs then are.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["dystress"]
CMD ["--help"]
