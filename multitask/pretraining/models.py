"""The model and tokenizer that a run starts from: random, or a checkpoint."""

from collections.abc import Callable

from minbert import BertConfig, BertForMaskedLM, BertTokenizer

from .corpus import split_passages
from .segments import NONE
from .settings import PretrainingSettings
from .step import draw_attentive


def new_model(settings: PretrainingSettings, passages: list[list[str]],
              say: Callable[[str], None]) -> tuple[BertForMaskedLM, BertTokenizer]:
    """A random model, and a vocabulary learned from the training passages."""
    train, _ = split_passages(len(passages), settings.held_out)
    lines = [line for number in train for line in passages[number]]
    say(f"vocabulary: learning {settings.vocab_size:,} pieces from {len(lines):,} lines "
        "(minutes for 100 MB)")
    tokenizer = BertTokenizer.train(lines, settings.vocab_size)

    model = BertForMaskedLM(BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=settings.hidden,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads,
        intermediate_size=4 * settings.hidden,
        max_position_embeddings=settings.length))  # longer positions would stay untrained
    draw_attentive(model)
    say(f"model: from scratch ({count_parameters(model)} parameters, {tokenizer.vocab_size:,} "
        "pieces); its pooler stays random, since guessing tokens does not train it; --from "
        "CHECKPOINT continues from another")
    return model, tokenizer


def pretrained_model(settings: PretrainingSettings,
                     say: Callable[[str], None]) -> tuple[BertForMaskedLM, BertTokenizer]:
    """Model and tokenizer of --from. Raises ValueError if they or --length do not match."""
    model = BertForMaskedLM.from_pretrained(settings.start)
    tokenizer = BertTokenizer.from_pretrained(settings.start)
    config = model.config
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"--from {settings.start}: the tokenizer knows {tokenizer.vocab_size} "
                         f"pieces, the model {config.vocab_size}: they do not belong together")
    if settings.length > config.max_position_embeddings:
        raise ValueError(f"--length {settings.length}, but {settings.start} takes sequences of up "
                         f"to {config.max_position_embeddings} tokens")
    if settings.second_segment != NONE and config.type_vocab_size < 2:
        raise ValueError(f"--second-segment {settings.second_segment}: {settings.start} has one "
                         "token type, where two segments need two")
    say(f"model: {settings.start} ({count_parameters(model)} parameters), its vocabulary and its "
        "pooler unchanged")
    return model, tokenizer


def count_parameters(model: BertForMaskedLM) -> str:
    return f"{sum(value.numel() for value in model.parameters()):,}"
