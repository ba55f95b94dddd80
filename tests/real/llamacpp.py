"""llama.cpp's server with a model that is made on the spot: `python llamacpp.py PORT FOLDER`.

The weights are random, of a fixed seed, but those that choose the next word: at temperature 0 it says WORDS in turn.
Runs in the environment of `make test-real`, which has gguf, numpy and xllamacpp (llama.cpp's own server, compiled).
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

WIDTH, LAYERS, HEADS, HIDDEN, CONTEXT = 64, 2, 4, 128, 65_536
WORDS = tuple(f"\u2581{a}{b}" for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "al", "en", "or"))
CONTROL, BYTE, NORMAL, UNKNOWN = 3, 6, 1, 2  # token types of a GGUF
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


def vocabulary() -> list[tuple[str, int]]:
    """Tokens and their types: three special ones, each byte, and words. The model says words only."""
    special = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    return special + [(f"<0x{byte:02X}>", BYTE) for byte in range(256)] + [(word, NORMAL) for word in WORDS]


def write_model(file: Path) -> None:
    """A llama with random weights that never says its end: what is asked for is what comes."""
    import gguf
    import numpy

    tokens = vocabulary()
    random = numpy.random.default_rng(7)

    def weights(*shape: int) -> Any:
        return (random.standard_normal(shape) / shape[-1] ** 0.5 / 4).astype(numpy.float32)

    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    embedding = random.standard_normal((len(tokens), WIDTH)).astype(numpy.float32)
    says = numpy.zeros_like(embedding)  # the logit 0: among so many words one is always above it
    # After each word the next of WORDS, by far: else it says one for ever, which LiteLLM takes for a broken model.
    says[-len(WORDS) :] = numpy.roll(embedding[-len(WORDS) :], 1, axis=0)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output.weight", says)
    writer.add_tensor("output_norm.weight", numpy.ones(WIDTH, numpy.float32))
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", numpy.ones(WIDTH, numpy.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(WIDTH, WIDTH))
        writer.add_tensor(f"blk.{layer}.ffn_gate.weight", weights(HIDDEN, WIDTH))
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", weights(HIDDEN, WIDTH))
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", weights(WIDTH, HIDDEN))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(port: int, folder: Path) -> None:
    """Serve until a signal ends the process, as a container's stop does."""
    import xllamacpp

    model = folder / "tiny.gguf"
    if not model.exists():
        write_model(model)
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {"tiny"}
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_ctx, params.n_parallel = CONTEXT, 4
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.endpoint_slots = params.endpoint_metrics = True
    params.warmup = False
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
