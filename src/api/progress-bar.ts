/**
 * How loading goes on, as one line of a terminal that is written over and cleared at the end. On anything but a terminal
 * it prints only failed requests, one line each. It draws what the library reports.
 */
import type { LoadProgress } from "../wire/protocol.ts";

/** The part of a terminal that is used. */
export interface Terminal {
  isTTY?: boolean;
  columns?: number;
  write(text: string): unknown;
}

const PHASES: Record<LoadProgress["phase"], string> = {
  header: "Reading the header",
  waiting: "Waiting: another tab or process is downloading this model",
  retrying: "Trying again",
  download: "Downloading",
  weights: "Uploading weights",
  pipelines: "Compiling kernels",
  finishing: "Finishing: tokenizer and upload",
};

const BAR_COLUMNS = 30;
const CLEAR_LINE = "\r\x1b[K";

/** What a phase's line says, at most `columns` wide. */
export function progressLine(progress: LoadProgress, columns: number): string {
  const { phase, done, total, secondsLeft } = progress;
  if (phase === "waiting" || phase === "finishing") return PHASES[phase].slice(0, Math.max(0, columns - 1));
  if (phase === "retrying") return retryText(progress).slice(0, Math.max(0, columns - 1));
  const share = total > 0 ? Math.min(1, done / total) : 0;
  const full = Math.round(share * BAR_COLUMNS);
  const bar = `[${"#".repeat(full)}${"-".repeat(BAR_COLUMNS - full)}]`;
  const amount =
    phase === "pipelines" ? `${done} of ${total}` : `${megabytes(done)} of ${megabytes(total)} MB`;
  const left = secondsLeft === undefined || done >= total ? "" : `, ${timeText(secondsLeft)} left`;
  return `${PHASES[phase]} ${bar} ${amount}${left}`.slice(0, Math.max(0, columns - 1));
}

function retryText({ reason, done, total, secondsLeft = 0 }: LoadProgress): string {
  return `${reason}: failed ${done} of ${total} times, trying again in ${timeText(secondsLeft)}`;
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

function timeText(seconds: number): string {
  const whole = Math.ceil(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

export class ProgressBar {
  private readonly terminal: Terminal;
  private isShown = false;
  private isDownloading = false;

  constructor(terminal: Terminal) {
    this.terminal = terminal;
  }

  /** The upload waits for the download, which is shown while it lasts. */
  readonly show = (progress: LoadProgress): void => {
    if (!this.terminal.isTTY) return this.note(progress);
    if (progress.phase === "download") this.isDownloading = progress.done < progress.total;
    else if (this.isDownloading && progress.phase !== "retrying") return;
    this.isShown = true;
    this.terminal.write(CLEAR_LINE + progressLine(progress, this.terminal.columns || 80));
  };

  /** What a reader of a log wants to know: that something fails. */
  private note(progress: LoadProgress): void {
    if (progress.phase === "retrying") this.terminal.write(`tidepool: ${retryText(progress)}\n`);
  }

  end(): void {
    if (this.isShown) this.terminal.write(CLEAR_LINE);
    this.isShown = false;
  }
}
