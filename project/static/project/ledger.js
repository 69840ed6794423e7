// Checks id by id that a stream is whole: the server's word is not taken for it.

export class Ledger {
  count = 0;
  lastId = "";
  #epoch = null;
  #seq = 0;
  #duplicates = 0;
  #missing = 0;
  #foreign = 0;

  accept(id) {
    const [epoch, seq] = id.split("-").map(Number);
    this.#epoch ??= epoch;
    this.count += 1;
    if (epoch !== this.#epoch || !Number.isInteger(seq)) {
      this.#foreign += 1;
    } else if (seq <= this.#seq) {
      this.#duplicates += 1;
    } else {
      this.#missing += seq - this.#seq - 1;
      this.#seq = seq;
      this.lastId = id;
    }
  }

  // total: how many events the ended run has, or null while that isn't known.
  verdict(total = null) {
    const missing = this.#missing + (total === null ? 0 : Math.max(0, total - this.#seq));
    const faults = [
      [missing, "missing"],
      [this.#duplicates, "duplicate"],
      [this.#foreign + (total === null ? 0 : Math.max(0, this.#seq - total)), "foreign"],
    ].filter(([count]) => count);
    if (faults.length) {
      return { whole: false, text: `not complete: ${faults.map((fault) => fault.join(" ")).join(", ")}` };
    }
    if (total === null && !this.count) {
      return { whole: true, text: "no event so far" };
    }
    const range = this.#seq ? `1…${this.#seq}` : "no event";
    return {
      whole: true,
      text: total === null ? `${range} so far, no gap, no duplicate` : `complete: ${range}, no gap, no duplicate`,
    };
  }
}
