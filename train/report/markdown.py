"""`results.md`: the tables of the results and their summary, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.common.markdown import escaped, table_row
from train.evaluation.intervals import Estimate
from train.report.results import ModelResult, Spread
from train.report.summary import Comparison
from train.report.tasks import TasksTable
from train.report.tokens import TokenCount
from train.report.words import (
    NOISE,
    a_token,
    amount,
    ends,
    is_noise,
    plain_with_ends,
    share,
    signed,
    took,
    with_ends,
)


def markdown_results(
    sentences: list[str],
    table: list[ModelResult],
    compared: list[list[Comparison]],
    seeds: list[Spread],
    tasks: TasksTable,
    forgetting: str,
    tokens: Sequence[TokenCount] = (),
) -> str:
    """The results, neutral residues against the others by language, seeds, tasks, costs, tokens, sentences."""
    parts = [markdown_table(table, forgetting)]
    parts += [markdown_control(table)] if any(row.control for row in table) else []
    parts += map(markdown_comparisons, compared)
    parts += [markdown_spreads(seeds)] if seeds else []
    parts += [markdown_tasks(tasks)] if tasks.tasks else []
    parts.append(markdown_costs(table))
    parts += [markdown_tokens(tokens)] if tokens else []
    return "\n".join([*parts, *(f"{escaped(sentence)}\n" for sentence in sentences)])


def markdown_table(table: list[ModelResult], forgetting: str) -> str:
    """Bits per byte, in brackets the change against the backbone; how far predictions are from its own."""
    domains = list(table[0].bpb)
    lines = [_head(["model", *domains, f"{forgetting}, KL", f"{forgetting}, same token"])]
    for row in table:
        kl, same = row.kl.get(forgetting), row.agreement.get(forgetting)
        far = [plain_with_ends(kl) if kl else "", f"{same:.1%}" if same is not None else ""]
        lines.append(table_row([row.name, *(_cell(row, domain) for domain in domains), *far]))
    return "\n".join(lines) + "\n"


def _cell(row: ModelResult, domain: str) -> str:
    if not row.run:
        return f"{row.bpb[domain]:.3f}"
    change = row.change[domain]
    words = [words for words in (amount(change), ends(change)) if words]
    words += [NOISE] if is_noise(change) else []
    words += [row.marks[domain]] if domain in row.marks else []
    return f"{row.bpb[domain]:.3f} ({', '.join(words)})"


def markdown_control(table: list[ModelResult]) -> str:
    """The changes against the control, in bits per byte."""
    rows = [row for row in table if row.control]
    lines = [_head(["against the control", *rows[0].control])]
    lines += [table_row([row.name, *map(with_ends, row.control.values())]) for row in rows]
    return "\n".join(lines) + "\n"


def markdown_tasks(tasks: TasksTable) -> str:
    """Accuracies and their standard errors in percent, the means of a language's tasks and their changes first."""

    def cell(share: float, error: float | None, form: str = ".1f") -> str:
        return f"{100 * share:{form}}%" if error is None else f"{100 * share:{form}} ±{100 * error:.1f}%"

    languages = next(iter(tasks.means.values()))
    columns = [f"{what}, {language}" for what in ("mean", "change") for language in languages]
    lines = [_head(["accuracy", *columns, *tasks.tasks])]
    for model, scores in tasks.scores.items():
        means = [cell(*mean) if mean else "" for mean in tasks.means[model].values()]
        asked = [cell(score.headline, score.stderr[score.metric]) if score else "" for score in scores]
        changes = [cell(*change, "+.1f") if change else "" for change in tasks.changes[model].values()]
        lines.append(table_row([model, *means, *changes, *asked]))
    return "\n".join(lines) + "\n"


def markdown_costs(table: list[ModelResult]) -> str:
    """What each run was trained with, and what that took."""
    lines = [_head(["run", "rate", "trained weights", "added", "tokens", "tokens/s", "training time", "peak MiB"])]
    for row in table:
        if row.run:
            record, added = row.run.record, f"{row.run.record.true_fraction:.1%}"
            added += f", {row.run.added_share:.1%} in all" if row.run.bases else ""
            cells = [
                f"{record.options.learning_rate:g}",
                f"{record.trained_weights:,}",
                added,
                f"{record.tokens:,}",
            ]
            cells += [
                f"{record.tokens / record.seconds:,.0f}",
                " · ".join(words for words in (took(record.seconds), a_token(record)) if words),
                f"{record.peak_memory_mib:,}",
            ]
            lines.append(table_row([row.name, *cells]))
    return "\n".join(lines) + "\n"


def markdown_tokens(tokens: Sequence[TokenCount]) -> str:
    """The tokens of each split of each domain."""
    lines = [_head(["domain", "language", "split", "documents", "text, MB", "tokens", "rows", "bytes a token"])]
    for each in tokens:
        cells = [each.domain, each.language, each.split, f"{each.documents:,}", f"{each.bytes / 1e6:.2f}"]
        cells += [f"{each.tokens:,}", "" if each.rows is None else f"{each.rows:,}"]
        lines.append(table_row([*cells, f"{each.bytes / each.tokens:.2f}"]))
    return "\n".join(lines) + "\n"


def markdown_comparisons(compared: list[Comparison]) -> str:
    """Neutral residues less each other setting in bits per byte, and their share of its change and of its KL."""
    forgetting, learning, *others = compared[0].differences
    further = {f"{forgetting}, share of KL": [each.kl_share for each in compared]}
    further |= {f"{forgetting}, share against the control": [each.control_share for each in compared]}
    further |= {f"{domain}, share": [each.shares.get(domain) for each in compared] for domain in others}
    further = {name: parts for name, parts in further.items() if any(parts)}
    columns = [f"{domain}{what}" for domain in (forgetting, learning) for what in ("", ", share")]
    lines = [_head(["difference", *columns, *further])]
    for number, each in enumerate(compared):
        cells = [f"neutral against {each.other.label}"]
        for domain in (forgetting, learning):
            cells += [with_ends(each.differences[domain]), _share(each.shares.get(domain))]
        lines.append(table_row([*cells, *(_share(parts[number]) for parts in further.values())]))
    return "\n".join(lines) + "\n"


def _share(part: Estimate | None) -> str:
    return share(part) if part else ""


def markdown_spreads(seeds: list[Spread]) -> str:
    """Changes of the mean over the seeds, and of the least and the greatest."""
    domains = list(seeds[0].mean)
    lines = [_head(["mean over seeds", "seeds", *domains])]
    for each in seeds:
        both = {domain: " to ".join(map(signed, each.seeds[domain])) for domain in domains}
        cells = [f"{with_ends(each.mean[domain])}; seeds {both[domain]}" for domain in domains]
        lines.append(table_row([each.setting.label, len(each.setting.runs), *cells]))
    return "\n".join(lines) + "\n"


def _head(columns: list[str]) -> str:
    return f"{table_row(columns)}\n|---|" + "---:|" * (len(columns) - 1)
