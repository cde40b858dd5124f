# The workflow with all that it needs, in the versions that the tests ran with. docs/guide.md, "In a container", says
# how it is used; podman and buildah build it too.
#
#     docker build --target cpu --build-arg TORCH_INDEX=URL -t neutral-residues .
#     docker build --target cuda -t neutral-residues .

# The Python that constraints.txt was made with.
FROM python:3.11-slim AS base

# Of the clients that fetch the sample crawl, the one that is not there yet; CLIENTS= leaves it out.
ARG CLIENTS=npm
RUN if [ -n "$CLIENTS" ]; then \
        apt-get update && apt-get install --yes --no-install-recommends $CLIENTS && rm -rf /var/lib/apt/lists/*; \
    fi

# A checkout that is the working folder goes before this one.
ENV PYTHONPATH=/opt/neutral-residues
WORKDIR /opt/neutral-residues
# The packages without the code, so that a change of the code installs nothing again.
COPY pyproject.toml constraints.txt README.md LICENSE ./


FROM base AS cpu
# Where torch's builds without CUDA are, unless pip is set to find them.
ARG TORCH_INDEX
RUN pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} '.[gguf]' \
    && python -c "import torch; assert not torch.version.cuda, 'a build with CUDA; give --build-arg TORCH_INDEX'"
COPY . .
WORKDIR /work
# Any user may run it, one without a name or a home too.
ENV HOME=/tmp USER=neutral-residues
USER 1000


FROM base AS cuda
# On Linux torch's usual build has CUDA, and brings its libraries; the driver is the host's.
RUN pip install --no-cache-dir -c constraints.txt '.[gguf]' \
    && python -c "import torch; assert torch.version.cuda, 'a build without CUDA'"
COPY . .
WORKDIR /work
# Any user may run it, one without a name or a home too.
ENV HOME=/tmp USER=neutral-residues
USER 1000
