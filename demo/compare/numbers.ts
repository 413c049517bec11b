/** Numbers as the comparison's axes, tables and readouts say them. */

/** "85.1%". */
export function percentText(share: number): string {
  return `${(share * 100).toFixed(1)}%`;
}

/** "2.15 GB", "30 MB"; units are powers of 1,000. */
export function capacityText(bytes: number): string {
  const unit = bytes >= 1e12 ? "TB" : bytes >= 1e9 ? "GB" : "MB";
  const value = bytes / { TB: 1e12, GB: 1e9, MB: 1e6 }[unit];
  return `${Number(value.toPrecision(3))} ${unit}`;
}

/** "12.3 M", "4.56 P": for tokens and FLOPs on axes. */
export function shortText(value: number): string {
  if (value === 0) return "0";
  const prefixes = ["", "k", "M", "G", "T", "P", "E"];
  const step = Math.min(prefixes.length - 1, Math.max(0, Math.floor(Math.log10(Math.abs(value)) / 3)));
  const scaled = Number((value / 1000 ** step).toPrecision(3));
  return step === 0 ? String(scaled) : `${scaled} ${prefixes[step]}`;
}

/** "0.8 ms", "350 ms", "12.3 s", "4.5 min", "2.1 h". */
export function durationText(ms: number): string {
  if (ms === 0) return "0";
  if (ms < 1000) return `${Number(ms.toPrecision(2))} ms`;
  if (ms < 200_000) return `${Number((ms / 1000).toPrecision(3))} s`;
  if (ms < 6_000_000) return `${Number((ms / 60_000).toPrecision(2))} min`;
  return `${Number((ms / 3_600_000).toPrecision(2))} h`;
}

export function countText(value: number): string {
  return new Intl.NumberFormat("en").format(value);
}
