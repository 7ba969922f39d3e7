# Builds cfp and runs its demo:
#   docker build --tag cfp .
#   docker run --rm --volume "$PWD/cfp-run:/workspace/cfp-run" cfp
# Other commands: docker run --rm --volume "$PWD:/workspace" cfp score model.pt data/

FROM python:3.11-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential ca-certificates curl \
    && rm -rf /var/lib/apt/lists/*
RUN curl --proto '=https' --tlsv1.2 --silent --show-error --fail https://sh.rustup.rs \
    | sh -s -- -y --profile minimal
ENV PATH=/root/.cargo/bin:$PATH
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
# This index has PyTorch for CPUs, which is much smaller than PyTorch for GPUs. For GPUs, remove the option.
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    "$(echo /wheels/cfp_prune-*.whl)[export,report]"
WORKDIR /workspace
ENTRYPOINT ["cfp"]
CMD ["demo"]
