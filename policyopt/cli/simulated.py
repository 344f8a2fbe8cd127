"""What `policyopt simulate` prints: what was played, the columns of its table, and what they mean."""

from __future__ import annotations

from typing import Any

from policyopt.cli.output import number, percent


def meaning(record: dict[str, Any]) -> str:
    """Return what the columns mean."""
    from policyopt.online.tally import WINDOW

    text = (
        "regret: what the best fixed arm earns in all, less what was played; below 0: better than any fixed\n"
        "arm. late share: of the best arm, in the last tenth. ±: 95 % over repetitions."
    )
    if _moves(record):
        text += " moving regret: to the\nbest arm of each moment."
    if record["recovery"]:
        text += (
            f" recovered: requests from each sudden change until, over {WINDOW}\n"
            "requests, moving regret is down to a quarter of what staying with the arm of before would cost."
        )
    return text


def told(record: dict[str, Any]) -> list[str]:
    """Return what was played, for people, line by line."""
    mixed = not _moves(record) and len(record["streams"]) > 1
    arms, low, high = record["arms"], *record["overhead"]
    share = record["label_share"]
    return [
        f"{record['rounds']:,} requests, "
        + ("one repetition (no intervals)" if record["repetitions"] == 1
           else f"{record['repetitions']} repetitions") + ", "
        + (f"an even mixture of {', '.join(record['streams'])}" if mixed
           else f"{record['schedule']} over {', '.join(record['streams'])}"),
        f"{len(arms)} arms: {record['method']} at "
        + ("thresholds " if record["arms_unit"] == "threshold" else "expected costs ")
        + f"{number(arms[0], 3)} to {number(arms[-1], 3)}"
        + ("" if record["arms_unit"] == "threshold" else f" {record['unit']}"),
        f"reward {record['reward']}, overhead " + (f"{low:g}" if low == high else f"{low:g} to {high:g}")
        + (f", reveal {record['reveal']}" if record["reveal"] else "")
        + (f", feedback after {record['delay']:,} rounds" if record["delay"] else "")
        + (f", of {share:.0%} of the requests" if share < 1 else "")
        + (f", budget {number(record['budget'])} {record['unit']}" if record["budget"] is not None else ""),
    ]  # fmt: skip


def columns(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the columns that have something to say."""

    def with_interval(name: str, text: Any) -> Any:
        def shown(r: dict[str, Any]) -> str:
            value, low, high = r[name], r[f"{name}_low"], r[f"{name}_high"]
            if value is None or low is None:
                return "-" if value is None else f"{text(value)} ± -"
            return f"{text(value)} ± {text(max(high - value, value - low))}"  # ends may be cut

        return shown

    def plain(value: float) -> str:
        return f"{value:.1f}"

    unit, first = records[0]["unit"], records[0]
    arm = "best arm" if first["arms_unit"] == "threshold" else f"best arm [{unit}]"
    found = {
        "policy": lambda r: r["policy"],
        "regret": with_interval("regret", plain),
    }
    if _moves(first):
        found["moving regret"] = with_interval("moving_regret", plain)
    found[arm] = lambda r: number(r["best_arm"], 3)
    if any(r["best_arm_share"] is not None for r in records):
        found["late share %"] = lambda r: (
            None if r["best_arm_share"] is None else percent(r["best_arm_share"], 1)
        )
    if first["recovery"]:
        found["recovered"] = lambda r: " ".join(
            "never" if x is None else str(x) for x in r["recovery"]
        )
    found[f"cost [{unit}]"] = with_interval("realised_cost", lambda x: number(x))
    if first["budget"] is not None:
        found["off budget %"] = lambda r: f"{100 * (r['realised_cost'] / r['budget'] - 1):+.2f}"
    found["accuracy %"] = with_interval("accuracy", percent)
    return found


def _moves(record: dict[str, Any]) -> bool:
    """Return whether the best arm may be another at another time."""
    return len(record["streams"]) > 1 and record["schedule"] != "stationary"
