"use strict";
/*
 * Shows an audit: `render(data)` takes what the element `audit` of the page holds, or the same from elsewhere.
 * All texts of others become text nodes, and what cannot be seen in them becomes visible.
 *
 * @typedef {{name: string, severity: "urgent"|"risk"|"notice", words: string, meaning: string, mend: string}} Finding
 * @typedef {{id: string, user: string, creator: ?string, created: string, expires: ?string, state: string,
 *   is_enabled: boolean, is_own: boolean, findings: string[], new_findings: string[], changes: string[]}} Token
 * @typedef {{name: string, count: number, new: number, mend: string}} Total
 * @typedef {{name: string, time: string, users: number, live: number, disabled: number, expired: number,
 *   findings: Total[], changes: {since: ?string, audited_by: ?string, summary: string, gone: object[]},
 *   unfinished: string[], not_whole: string[], not_known: string[], tokens: Token[]}} Cluster
 * @typedef {{time: string, program: string, summary: string, only_new: boolean, thresholds: object, findings: Finding[],
 *   clusters: Cluster[], failed: {name: string, reason: string}[]}} Audit
 * @typedef {{token: Token, cluster: Cluster, now: number, created: number, expires: number, findings: Finding[],
 *   rank: number, user: string, text: string}} Row A token, with what it is sorted and found by; who never expires does so at Infinity.
 */
(() => {
  const DAY = 86_400_000;
  const SEVERITIES = ["urgent", "risk", "notice", "none"];
  const SEVERITY_WORDS = { urgent: "urgent", risk: "risk", notice: "notice", none: "no finding" };
  const NEEDS_ATTENTION = 1; // The rank of the last severity that somebody has to attend to.
  const CHUNK = 50;
  const READ_AT_ONCE = 2_500;
  const PRINTED_ROWS = 1_000;
  const PRINTED_USERS = 100;
  const LISTED_GONE = 50;
  const SUGGESTED_USERS = 500;
  const COUNTED_BY_USER = "users_with_two_tokens";
  // As quoting.py has it: what is not seen, blanks that are none of ours, and marks that stand on nothing.
  const INVISIBLE = /[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800\u{1d159}\u{16fe4}]|(?! )\p{Zs}|(?<![\p{L}\p{M}])\p{M}/gu;
  const RELATIVE = new Intl.RelativeTimeFormat("en");
  const COUNT = new Intl.NumberFormat("en");
  const MONTH = new Intl.DateTimeFormat("en", { month: "short", year: "numeric", timeZone: "UTC" });

  /** @type {Audit} */ let audit;
  /** @type {Map<string, Finding>} */ let findings;
  /** @type {Row[]} The worst first. */ let rows = [];
  /** @type {Row[]} What the filters leave of them. */ let matching = [];
  let sorting = { column: "findings", descending: false };
  /** @type {LongList} */ let table;
  /** @type {{cluster: Cluster, list: LongList, box: Element}[]} */ let timelines = [];
  let isDue = false;
  let hasRemarks = false;

  /** @param {string} id @returns {any} */
  const find = (id) => document.getElementById(id);
  const list = (id) => find(id).querySelector(".list");
  const count = (number, noun) => `${COUNT.format(number)} ${noun}${number === 1 ? "" : "s"}`;
  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

  /** Create an element. Attributes that are false, null or undefined are left out. @returns {any} */
  function el(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child != null && child !== false));
    return element;
  }

  /** Put sizes and places on an element; the policy forbids the attribute `style`, not this. */
  function place(element, properties) {
    for (const [name, value] of Object.entries(properties)) element.style.setProperty(name, value);
    return element;
  }

  /** Show a text of others, isolated from the direction of what stands around it. @param {string} text */
  function quote(text) {
    const shown = el("bdi");
    let end = 0;
    for (const match of text.matchAll(INVISIBLE)) {
      const code = match[0].codePointAt(0).toString(16);
      shown.append(text.slice(end, match.index), el("span", { class: "escape" }, `\\u${code.length > 4 ? `{${code}}` : code.padStart(4, "0")}`));
      end = match.index + match[0].length;
    }
    shown.append(text.slice(end));
    return shown;
  }

  /** Read a time of RFC 3339, in UTC if it has no offset; browsers differ in how many digits of a second they read. @param {string} text */
  const parseTime = (text) => Date.parse(text.replace(/(\.\d{3})\d+/, "$1").replace(/[T ][\d:.]+$/i, "$&Z"));
  const formatTime = (time) => new Date(time).toISOString().slice(0, 16).replace("T", " ");
  const formatDate = (time) => new Date(time).toISOString().slice(0, 10);

  function formatRelative(time, now) {
    const hours = (time - now) / 3_600_000;
    const size = Math.abs(hours);
    if (size < 1) return RELATIVE.format(Math.trunc(hours * 60), "minute");
    if (size < 48) return RELATIVE.format(Math.trunc(hours), "hour");
    return size < 24 * 730 ? RELATIVE.format(Math.trunc(hours / 24), "day") : RELATIVE.format(Math.trunc(hours / 8766), "year");
  }

  // ---- Rows: what tokens are found, sorted and counted by

  /** @param {Cluster} cluster @param {Token} token @returns {Row} */
  function createRow(cluster, token, now) {
    const found = token.findings.map((name) => findings.get(name)).filter((finding) => finding !== undefined);
    const rank = Math.min(3, ...found.map((finding) => SEVERITIES.indexOf(finding.severity)));
    const words = [cluster.name, token.id, token.user, token.creator, token.state, ...token.changes, ...found.map((finding) => finding.words)];
    const expires = token.expires === null ? Infinity : parseTime(token.expires);
    return { token, cluster, now, created: parseTime(token.created), expires, findings: found, rank, user: token.user.toLowerCase(), text: words.join("\n").toLowerCase() };
  }

  /** Read the tokens, a few thousand at a time, and sort the worst first. @returns {Promise<Row[]>} */
  async function readRows() {
    const read = [];
    for (const cluster of audit.clusters) {
      const now = parseTime(cluster.time);
      for (let first = 0; first < cluster.tokens.length; first += READ_AT_ONCE) {
        await pause();
        for (const token of cluster.tokens.slice(first, first + READ_AT_ONCE)) read.push(createRow(cluster, token, now));
      }
    }
    return read.sort((a, b) => a.rank - b.rank || (a.expires < b.expires ? -1 : a.expires > b.expires ? 1 : 0));
  }

  /** @param {Row} row */
  const isNews = (row) => row.token.changes.length > 0 || row.token.new_findings.length > 0;
  const countTokens = (clusters) => sum(clusters.map((each) => each.live + each.disabled + each.expired));

  const FINDING_TESTS = {
    "": () => true,
    "*attention": (row) => row.rank <= NEEDS_ATTENTION,
    "*any": (row) => row.rank < 3,
    "*none": (row) => row.rank === 3,
  };
  const CHANGE_TESTS = {
    "": () => true,
    "*any": isNews,
    "*finding": (row) => row.token.new_findings.length > 0,
  };

  /** @returns {Row[]} */
  function findMatching() {
    const [text, user] = ["text", "user"].map((id) => find(id).value.trim().toLowerCase());
    const [cluster, finding, state, change] = ["cluster", "finding", "state", "change"].map((id) => find(id).value);
    const hasFinding = FINDING_TESTS[finding] ?? ((row) => row.token.findings.includes(finding));
    const hasChange = CHANGE_TESTS[change] ?? ((row) => row.token.changes.includes(change));
    return rows.filter((row) =>
      row.text.includes(text) && row.user.includes(user)
      && (cluster === "" || row.cluster.name === cluster) && (state === "" || row.token.state === state)
      && hasFinding(row) && hasChange(row));
  }

  // ---- Long lists: only what is near the visible part is drawn

  class LongList {
    /**
     * @param {Element} scroller what scrolls @param {Element} box what the chunks are put into
     * @param {string} tag of a chunk @param {(item: any, index: number) => Element} draw
     * @param {(height: number) => Element} hold an empty place so high @param {() => number} estimate the height of an item
     */
    constructor(scroller, box, tag, draw, hold, estimate) {
      Object.assign(this, { scroller, box, tag, draw, hold, estimate, items: [], chunks: [], isWhole: false, isWatching: false });
      this.observer = new IntersectionObserver((entries) => entries.forEach((entry) => this.see(entry)), { root: scroller, rootMargin: "800px 0px" });
    }

    show(items) {
      this.unwatch();
      this.chunks.forEach((chunk) => chunk.remove());
      this.items = items;
      this.chunks = Array.from({ length: Math.ceil(items.length / CHUNK) }, () => el(this.tag));
      this.scroller.scrollTop = 0;
      if (this.isWhole) this.fillAll(this.chunks);
      else this.drawSeen();
    }

    /** Draw the first chunk, and leave so much room for the others as it tells. */
    drawSeen() {
      const [first, ...others] = this.chunks;
      if (!first) return;
      this.fill(first, 0);
      this.box.append(first);
      const height = this.estimate();
      others.forEach((chunk, index) => this.empty(chunk, height * Math.min(CHUNK, this.items.length - (index + 1) * CHUNK)));
      this.box.append(...others);
      this.isWatching = true;
      others.forEach((chunk) => this.observer.observe(chunk));
    }

    unwatch() {
      this.isWatching = false;
      this.observer.disconnect();
    }

    /** Draw all; every chunk that is put into the page has the whole list laid out, so they are put there together. */
    async fillAll(chunks) {
      for (const [number, chunk] of chunks.entries()) {
        this.fill(chunk, number);
        if (number % 4 === 3) await pause();
        if (this.chunks !== chunks) return;
      }
      this.box.append(...chunks);
    }

    see({ target, isIntersecting, boundingClientRect }) {
      if (!this.isWatching) return; // What was seen before can be told after nobody watches any more.
      const number = this.chunks.indexOf(target);
      if (number < 0) return;
      if (isIntersecting && !target.isFilled) this.fill(target, number);
      else if (!isIntersecting && target.isFilled) this.empty(target, boundingClientRect.height);
    }

    fill(chunk, number) {
      const first = number * CHUNK;
      chunk.isFilled = true;
      chunk.replaceChildren(...this.items.slice(first, first + CHUNK).map((item, place) => this.draw(item, first + place)));
    }

    empty(chunk, height) {
      chunk.isFilled = false;
      chunk.replaceChildren(this.hold(height));
    }

    /** Draw the first so many items for paper, and nothing else. */
    print(limit) {
      this.unwatch();
      this.box.append(...this.chunks);
      this.chunks.forEach((chunk, number) => (number * CHUNK < limit ? this.fill(chunk, number) : (chunk.hidden = true)));
    }

    setWhole(isWhole) {
      this.isWhole = isWhole;
      this.show(this.items);
    }
  }

  // ---- The head of the page

  function renderVerdict() {
    find("verdict").replaceChildren(quote(audit.summary));
    const soon = audit.thresholds.expiring_within[0];
    const onlyNew = audit.only_new ? "Only what is new since the last audit is listed; the counts are of all. " : "";
    find("facts").replaceChildren(
      `${formatTime(parseTime(audit.time))} UTC. ${onlyNew}Soon is within ${soon}, old is over ${audit.thresholds.old_after}. Attention is for what is urgent or a risk.`);
    find("footer").replaceChildren(quote(`Made by ${audit.program}. It has no secret, and loads and sends nothing.`));
  }

  function renderFailed() {
    find("failed").hidden = audit.failed.length === 0;
    find("failed").querySelector("dl").replaceChildren(
      ...audit.failed.flatMap(({ name, reason }) => [el("dt", {}, quote(name)), el("dd", {}, quote(reason))]));
  }

  function renderClusters() {
    const heads = ["Cluster", "Tokens", "Users", "Live", "Disabled", "Expired", "Urgent", "Risk", "Notice", "No finding", "News"];
    const lines = audit.clusters.map((cluster) => {
      const own = rows.filter((row) => row.cluster === cluster);
      const bySeverity = SEVERITIES.map((_, rank) => own.filter((row) => row.rank === rank).length);
      const numbers = [countTokens([cluster]), cluster.users, cluster.live, cluster.disabled, cluster.expired, ...bySeverity, own.filter(isNews).length];
      const name = el("th", { scope: "row" }, quote(cluster.name), drawShares(bySeverity));
      return el("tr", {}, name, ...numbers.map((number) => el("td", { class: "number" }, COUNT.format(number))));
    });
    const head = el("tr", {}, ...heads.map((text, place) => el("th", { scope: "col", class: place && "number" }, text)));
    const note = audit.only_new ? "Tokens are counted by severity only if they have news." : "Each token is counted once, by its worst finding.";
    const whole = el("table", {}, el("thead", {}, head), el("tbody", {}, ...lines));
    find("clusters").querySelector(".wide").replaceChildren(audit.clusters.length ? whole : el("p", {}, "No cluster was read."));
    find("count-note").textContent = audit.clusters.length ? note : "";
  }

  /** Draw how many tokens have which severity, as one bar. */
  function drawShares(numbers) {
    const parts = numbers.map((number, rank) => place(el("span", { class: SEVERITIES[rank] }), { "flex-grow": number }));
    return el("span", { class: "shares", "aria-hidden": "true" }, ...parts);
  }

  // ---- Findings and changes

  /** Show a severity as a shape, a colour and a word. */
  const drawSeverity = (severity) => el("span", { class: `severity ${severity}` }, SEVERITY_WORDS[severity]);

  function renderFindings() {
    const found = audit.findings.map((finding) => ({
      finding,
      places: audit.clusters.flatMap((cluster) => cluster.findings.filter((total) => total.name === finding.name && total.count).map((total) => ({ cluster, total }))),
    }));
    list("findings").replaceChildren(...found.filter(({ places }) => places.length).map(drawFinding));
    const absent = found.filter(({ places }) => !places.length).map(({ finding }) => finding.words);
    find("not-found").textContent = absent.length ? `Looked for and not found: ${absent.join("; ")}.` : "";
  }

  function drawFinding({ finding, places }) {
    const noun = finding.name === COUNTED_BY_USER ? "user" : "token";
    const fresh = sum(places.map(({ total }) => total.new));
    const number = count(sum(places.map(({ total }) => total.count)), noun);
    const button = el("button", { type: "button", class: "link" }, number, el("span", { class: "hidden-words" }, `, show them: ${finding.words}`));
    button.addEventListener("click", () => narrow({ finding: finding.name }));
    const mends = places.map(({ cluster, total }) =>
      el("li", {}, el("b", {}, "First on ", quote(cluster.name), ` (${COUNT.format(total.count)}): `), quote(total.mend)));
    return el("article", { class: `finding ${finding.severity}` },
      el("div", {}, drawSeverity(finding.severity), " ", button, fresh ? `, ${COUNT.format(fresh)} new` : "", el("h3", {}, finding.words)),
      el("p", {}, finding.meaning),
      el("div", {}, el("p", {}, finding.mend), el("ul", {}, ...mends)));
  }

  function renderChanges() {
    list("changes").replaceChildren(...audit.clusters.map((cluster) => {
      const own = rows.filter((row) => row.cluster === cluster);
      const counts = new Map();
      own.forEach((row) => row.token.changes.forEach((change) => counts.set(change, (counts.get(change) ?? 0) + 1)));
      const fresh = own.filter((row) => row.token.new_findings.length).length;
      const items = [...counts].map(([change, number]) => drawChange(cluster, change, `${change}: ${count(number, "token")}`));
      if (fresh) items.push(drawChange(cluster, "*finding", `new findings: ${count(fresh, "token")}`));
      return el("article", {}, el("h3", {}, quote(cluster.name)), el("p", {}, quote(cluster.changes.summary)),
        items.length ? el("ul", { class: "buttons" }, ...items) : null, ...drawGone(cluster.changes.gone));
    }));
  }

  function drawChange(cluster, change, text) {
    const button = el("button", { type: "button", class: "link" }, text);
    button.addEventListener("click", () => narrow({ cluster: cluster.name, change }));
    return el("li", {}, button);
  }

  function drawGone(gone) {
    if (!gone.length) return [];
    const items = gone.slice(0, LISTED_GONE).map((each) => {
      const who = each.user === null ? "user not known" : quote(each.user);
      return el("li", {}, quote(each.id), ", ", who, each.by_this_server ? ", deleted by this server" : "");
    });
    if (gone.length > LISTED_GONE) items.push(el("li", {}, `and ${COUNT.format(gone.length - LISTED_GONE)} more, which the audit as JSON names`));
    return [el("p", {}, el("b", {}, `Gone: ${count(gone.length, "token")}`)), el("ul", { class: "columns" }, ...items)];
  }

  function renderUnknown() {
    const parts = audit.clusters.map((cluster) => ({ cluster, notes: [
      ...cluster.not_whole.map((text) => ["The list may not be whole", text]),
      ...cluster.unfinished.map((text) => ["Unfinished", text]),
      ...cluster.not_known.map((text) => ["Not known", text]),
    ] })).filter(({ notes }) => notes.length);
    const told = parts.map(({ cluster, notes }) => el("article", {}, el("h3", {}, quote(cluster.name)),
      el("ul", {}, ...notes.map(([label, text]) => el("li", {}, el("b", {}, `${label}: `), quote(text))))));
    list("unknown").replaceChildren(...(told.length ? told : [el("p", {}, "Nothing is known to be missing.")]));
  }

  // ---- Filters

  function renderFilters() {
    const option = (value, text) => el("option", { value }, text);
    const names = audit.clusters.map((cluster) => cluster.name);
    find("cluster").replaceChildren(option("", "Every cluster"), ...names.map((name) => el("option", { value: name }, quote(name).textContent)));
    find("cluster-field").hidden = names.length < 2;
    const present = new Set(rows.flatMap((row) => row.token.findings));
    find("finding").replaceChildren(option("", "With and without"), option("*attention", "Needs attention"), option("*any", "Any finding"),
      option("*none", "No finding"), ...audit.findings.filter(({ name }) => present.has(name)).map(({ name, words }) => option(name, words)));
    const changes = [...new Set(rows.flatMap((row) => row.token.changes))].sort();
    find("change").replaceChildren(option("", "New or not"), option("*any", "Anything new"), option("*finding", "New finding"),
      ...changes.map((change) => option(change, change)));
    const users = [...new Set(rows.map((row) => row.token.user))].slice(0, SUGGESTED_USERS).sort();
    find("users").replaceChildren(...users.map((user) => option(user)));
  }

  /** Show only some tokens, and take the reader to them. */
  function narrow(values) {
    for (const id of ["text", "user", "cluster", "finding", "state", "change"]) find(id).value = values[id] ?? "";
    update();
    find("tokens").focus();
  }

  /** Filter once before the next picture, however often something was typed. */
  function updateSoon() {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => setTimeout(update));
  }

  function update() {
    showMatching();
    // A task of its own, so that no key waits for both.
    setTimeout(showTimelines);
  }

  function showMatching() {
    isDue = false;
    matching = findMatching();
    find("count").textContent = rows.length ? `${matching.length === rows.length ? "All" : `${COUNT.format(matching.length)} of`} ${count(rows.length, "token")} shown.` : "There is no token to show.";
    const cut = matching.length > PRINTED_ROWS ? ` The first ${COUNT.format(PRINTED_ROWS)} of them are printed; the audit as CSV has all.` : "";
    find("printed").textContent = `${find("count").textContent}${cut}`;
    showTable();
  }

  // ---- The table

  /** Each column: its heading, what it sorts by, and what its cell shows. */
  const COLUMNS = {
    cluster: { head: "Cluster", key: (row) => row.cluster.name.toLowerCase(), draw: (row) => [quote(row.cluster.name)] },
    user: { head: "User", key: (row) => row.user, draw: drawUser },
    id: { head: "Token", key: (row) => row.token.id.padStart(40, "0"), draw: drawId },
    state: { head: "State", key: (row) => row.token.state, draw: ({ token }) => [token.state === "expired" && !token.is_enabled ? "expired, disabled" : token.state] },
    created: { head: "Created (UTC)", key: (row) => row.created, draw: (row) => drawTime(row.created, row) },
    expires: { head: "Expires (UTC)", key: (row) => row.expires, draw: (row) => (row.token.expires === null ? ["never"] : drawTime(row.expires, row)) },
    findings: { head: "Findings", key: (row) => row.rank, draw: drawFindings },
    news: { head: "Since the last audit", key: (row) => (row.token.changes[0] ?? (isNews(row) ? "~" : "~~")), draw: drawNews },
  };

  function drawUser({ token }) {
    if (token.creator === token.user) return [quote(token.user)];
    const creator = token.creator === null ? ["creator not known"] : ["created by ", quote(token.creator)];
    return [quote(token.user), el("small", {}, ...creator)];
  }

  function drawId({ token }) {
    return [quote(token.id), token.is_own && el("small", {}, "this audit runs on it")];
  }

  function drawTime(time, { now }) {
    return [el("time", { datetime: new Date(time).toISOString() }, formatTime(time)), el("small", {}, formatRelative(time, now))];
  }

  function drawFindings(row) {
    const chips = row.findings.map((finding) => {
      const fresh = row.token.new_findings.includes(finding.name) ? el("b", {}, "new") : null;
      return el("li", { class: `chip ${finding.severity}` }, el("span", { class: "hidden-words" }, `${finding.severity}: `), finding.words, fresh);
    });
    return [chips.length ? el("ul", { class: "chips" }, ...chips) : el("span", { class: "muted" }, "none")];
  }

  function drawNews({ token, cluster }) {
    const words = token.changes.concat(token.new_findings.length ? [count(token.new_findings.length, "new finding")] : []);
    return [words.join(", ") || (cluster.changes.since === null ? "no audit before" : "nothing")];
  }

  const listColumns = () => Object.entries(COLUMNS).filter(([name]) => name !== "cluster" || audit.clusters.length > 1);

  function createTable() {
    const columns = listColumns();
    const head = el("tr", { "aria-rowindex": 1 }, ...columns.map(([name, { head: text }]) => {
      const button = el("button", { type: "button", class: "screen-only" }, text);
      button.addEventListener("click", () => sortBy(name));
      // On paper, Chromium repeats no head with a button in it.
      return el("th", { scope: "col", class: name, "data-column": name }, button, el("span", { class: "print-only" }, text));
    }));
    const whole = el("table", { class: "tokens", "aria-labelledby": "tokens-heading" }, el("thead", {}, head));
    find("table").replaceChildren(whole);
    const draw = (row, index) => el("tr", { class: SEVERITIES[row.rank], "aria-rowindex": index + 2 },
      ...columns.map(([name, column]) => el(name === "user" ? "th" : "td", { class: name, scope: name === "user" && "row", "data-head": column.head }, ...column.draw(row))));
    const hold = (height) => el("tr", { "aria-hidden": "true" }, place(el("td", { class: "room", colspan: columns.length }), { height: `${height}px` }));
    const estimate = () => whole.querySelector("tbody tr:not([aria-hidden])")?.offsetHeight || 44;
    table = new LongList(find("table"), whole, "tbody", draw, hold, estimate);
    table.isWhole = find("every-row").checked;
  }

  function sortBy(column) {
    sorting = { column, descending: sorting.column === column && !sorting.descending };
    showTable();
  }

  function showTable() {
    const { key } = COLUMNS[sorting.column];
    const direction = sorting.descending ? -1 : 1;
    const keyed = matching.map((row) => ({ row, by: key(row) }));
    keyed.sort((a, b) => (a.by < b.by ? -direction : a.by > b.by ? direction : 0));
    for (const head of find("table").querySelectorAll("th[data-column]")) {
      const isSorted = head.dataset.column === sorting.column;
      head.setAttribute("aria-sort", isSorted ? (sorting.descending ? "descending" : "ascending") : "none");
    }
    find("table").firstChild.setAttribute("aria-rowcount", matching.length + 1);
    table.show(keyed.map(({ row }) => row));
  }

  // ---- The timeline

  /** @returns {[number, number]} the first and the last instant that the timeline shows */
  function chooseSpan() {
    const now = parseTime(audit.time);
    const choice = find("span").value;
    if (choice === "90") return [now - 15 * DAY, now + 90 * DAY];
    if (choice === "365") return [now - 365 * DAY, now + 365 * DAY];
    const reach = choice === "all" ? Infinity : 730 * DAY;
    const first = rows.reduce((least, row) => Math.min(least, row.created), now - 30 * DAY);
    const last = rows.reduce((most, row) => (row.expires === Infinity ? most : Math.max(most, row.expires)), now + 90 * DAY);
    const [from, to] = [Math.max(first, now - reach), Math.min(last, now + reach)];
    return [from - (to - from) * 0.01, to + (to - from) * 0.04];
  }

  function createTimelines() {
    timelines = audit.clusters.map((cluster, number) => {
      const plot = el("div", { class: "plot" });
      const box = el("div", { class: "scroll timeline", tabindex: 0, role: "region", "aria-labelledby": `timeline-${number}`, "aria-describedby": "timeline-help" },
        el("div", { "aria-hidden": "true" }, el("div", { class: "axis" }), plot));
      const hold = (height) => place(el("div"), { height: `${height}px` });
      const estimate = () => parseFloat(getComputedStyle(box).getPropertyValue("--row-height"));
      const holder = el("article", {}, el("h3", { id: `timeline-${number}` }, quote(cluster.name)), el("p", { class: "muted summary" }, el("span"), el("span", { class: "print-only" })), box);
      const long = new LongList(box, plot, "div", (user) => drawTimelineRow(user, box.span), hold, estimate);
      return { cluster, list: long, box, holder };
    });
    list("timeline").replaceChildren(...timelines.map(({ holder }) => holder));
  }

  function showTimelines() {
    const span = chooseSpan();
    const byCluster = new Map(audit.clusters.map((cluster) => [cluster, new Map()]));
    for (const row of matching) {
      const users = byCluster.get(row.cluster);
      if (users.has(row.token.user)) users.get(row.token.user).push(row);
      else users.set(row.token.user, [row]);
    }
    for (const { cluster, list: long, box, holder } of timelines) {
      const users = byCluster.get(cluster);
      box.span = span;
      drawAxis(box, span, parseTime(cluster.time));
      const lanes = [...users.values()].flatMap(splitUser);
      const [summary, onPaper] = holder.querySelector(".summary").children;
      summary.textContent = users.size ? `${count(users.size, "user")}.` : "No token of this cluster is shown.";
      onPaper.textContent = lanes.length > PRINTED_USERS ? ` The first ${PRINTED_USERS} rows are printed; the table below goes on.` : "";
      box.hidden = users.size === 0;
      long.show(lanes);
    }
  }

  /** Give each two tokens of a user a row, since more than two are rare. @param {Row[]} tokens */
  function splitUser(tokens) {
    const inOrder = tokens.length > 1 ? tokens.slice().sort((a, b) => a.created - b.created) : tokens;
    return Array.from({ length: Math.ceil(tokens.length / 2) }, (_, number) => ({ tokens: inOrder.slice(number * 2, number * 2 + 2), isMore: number > 0 }));
  }

  const at = (time, [from, to]) => ((time - from) / (to - from)) * 100;

  /** @returns {number[]} the months at which the axis has a line, nine at most */
  function listTicks([from, to]) {
    const months = (to - from) / (30.44 * DAY);
    const step = [1, 2, 3, 6, 12, 24, 60, 120, 600, 1200, 6000].find((size) => months / size <= 9) ?? 24_000;
    const first = new Date(from);
    const index = Math.ceil((first.getUTCFullYear() * 12 + first.getUTCMonth() + 1) / step) * step;
    const ticks = Array.from({ length: 12 }, (_, number) => new Date(0).setUTCFullYear(Math.floor((index + number * step) / 12), (index + number * step) % 12, 1));
    return ticks.filter((time) => time > from && time < to);
  }

  function drawAxis(box, span, now) {
    const track = el("div", { class: "track" });
    const lines = el("div", { class: "lines" });
    for (const time of listTicks(span)) {
      const pixels = ((at(time, span) - at(now, span)) / 100) * box.clientWidth;
      lines.append(place(el("i"), { left: `${at(time, span)}%` }));
      if ((pixels < -80 || pixels > 110) && at(time, span) < 95) track.append(place(el("span", { class: "tick" }, MONTH.format(time)), { left: `${at(time, span)}%` }));
    }
    lines.append(place(el("i", { class: "now" }), { left: `${at(now, span)}%` }));
    track.append(place(el("span", { class: "tick now" }, `now, ${formatDate(now)}`), { left: `${at(now, span)}%` }));
    box.querySelector(".axis").replaceChildren(el("span", { class: "who" }, "User"), track);
    box.querySelector(".lines")?.remove();
    box.querySelector(".plot").prepend(lines);
  }

  function drawTimelineRow({ tokens, isMore }, span) {
    const lanes = [0, 1].map((number) => el("div", { class: "lane" }, ...(tokens[number] ? drawBar(tokens[number], span) : [])));
    const who = isMore ? el("small", {}, "and more of ", quote(tokens[0].token.user)) : quote(tokens[0].token.user);
    return el("div", { class: "lanes" }, el("span", { class: "who", title: quote(tokens[0].token.user).textContent }, who), el("div", { class: "track" }, ...lanes));
  }

  /** Draw a token from its creation to its expiry, and its findings in words where there is room. @param {Row} row */
  function drawBar(row, span) {
    const { token } = row;
    const start = Math.min(Math.max(at(row.created, span), 0), 99);
    const end = Math.max(Math.min(at(row.expires, span), 100), start + 0.4);
    const words = [token.is_enabled ? null : "disabled", ...row.findings.map((finding) => finding.words), row.expires > span[1] && row.expires < Infinity ? `expires ${formatDate(row.expires)}` : null].filter(Boolean).join(" · ");
    const classes = ["bar", SEVERITIES[row.rank], token.state, token.is_enabled ? "" : "hatched", row.created < span[0] ? "from-before" : "", row.expires > span[1] ? "goes-on" : ""];
    const ends = token.expires === null ? "never expires" : `expires ${formatTime(row.expires)} UTC`;
    const bar = place(el("span", { class: classes.join(" "), title: `Token ${token.id}, ${token.state}, created ${formatTime(row.created)} UTC, ${ends}${words ? `. ${words}` : ""}` }), { left: `${start}%`, width: `${end - start}%` });
    const label = el("span", { class: "words" }, words);
    // A wide bar has its words inside, another one where there is more room.
    if (end - start > 30) bar.append(label);
    else if (end < 60) place(label, { left: `${end}%`, "max-width": `${100 - end}%` });
    else place(label, { right: `${100 - start}%`, "max-width": `${start}%` });
    return words ? (end - start > 30 ? [bar] : [bar, label]) : [bar];
  }

  function renderLegend() {
    const example = (classes) => el("span", { class: `bar example ${classes}`, "aria-hidden": "true" });
    const entries = [...SEVERITIES.map((severity) => [`${severity} live`, SEVERITY_WORDS[severity]]),
      ["none disabled hatched", "disabled: hatched"], ["none expired", "expired: dashed"], ["none live goes-on", "goes on: never expires, or later than shown"]];
    find("timeline").querySelector(".legend").replaceChildren(...entries.map(([classes, words]) => el("li", {}, example(classes), words)));
  }

  // ---- Sign-off

  function renderSignOff() {
    list("sign-off").replaceChildren(...audit.clusters.map((cluster, number) => {
      const found = cluster.findings.filter((total) => total.count && findings.has(total.name));
      const lines = found.map((total) => {
        const { severity, words } = findings.get(total.name);
        return el("tr", {}, el("td", {}, drawSeverity(severity)), el("th", { scope: "row" }, words), el("td", { class: "number" }, COUNT.format(total.count)),
          el("td", {}, el("textarea", { rows: 1, "aria-label": `Remark on: ${words}`, autocomplete: "off" })));
      });
      const head = el("tr", {}, ...["Severity", "Finding", "Count", "Accepted, or mended by whom and when"].map((text) => el("th", { scope: "col" }, text)));
      const field = (label, tag) => el("label", {}, label, el(tag, { id: `${label.toLowerCase()}-${number}`, autocomplete: "off", rows: tag === "textarea" && 1 }));
      return el("fieldset", {}, el("legend", {}, quote(cluster.name)),
        lines.length ? el("table", {}, el("thead", {}, head), el("tbody", {}, ...lines)) : el("p", {}, "Nothing found."),
        el("div", { class: "signature" }, field("Name", "input"), field("Date", "input"), field("Remark", "textarea")));
    }));
  }

  /** Make a field as high as what is written in it, on paper too. */
  function growField({ target }) {
    hasRemarks = true;
    if (target.tagName === "TEXTAREA") place(place(target, { height: "auto" }), { height: `${target.scrollHeight + 2}px` });
  }

  // ---- All of it

  /** Let the browser draw, and serve its user, before the next step. */
  const pause = () => new Promise((resolve) => setTimeout(resolve));

  /** Show an audit, in place of what was shown before; `main` is busy until all of it is there. @param {Audit} data */
  async function render(data) {
    const main = document.querySelector("main");
    main.setAttribute("aria-busy", "true");
    audit = data;
    findings = new Map(data.findings.map((finding) => [finding.name, finding]));
    rows = await readRows();
    renderVerdict();
    renderFailed();
    createTable();
    createTimelines();
    await pause();
    for (const renderPart of [renderClusters, renderFindings, renderChanges, renderUnknown, renderFilters, renderLegend, renderSignOff]) renderPart();
    find("contents").hidden = false;
    main.hidden = false;
    await pause();
    showMatching();
    await pause();
    showTimelines();
    main.removeAttribute("aria-busy");
  }

  function listen() {
    for (const id of ["text", "user", "cluster", "finding", "state", "change"]) find(id).addEventListener("input", updateSoon);
    find("reset").addEventListener("click", () => { narrow({}); find("reset").focus(); });
    find("span").addEventListener("input", showTimelines);
    find("every-row").addEventListener("input", (event) => table.setWhole(event.target.checked));
    find("print").addEventListener("click", () => window.print());
    find("sign-off").addEventListener("input", growField);
    addEventListener("beforeprint", () => { table.print(PRINTED_ROWS); timelines.forEach(({ list: long }) => long.print(PRINTED_USERS)); });
    addEventListener("afterprint", update);
    addEventListener("beforeunload", (event) => { if (hasRemarks) event.preventDefault(); });
  }

  listen();
  globalThis.auditPage = { render };
  const embedded = find("audit").textContent.trim();
  if (embedded) render(JSON.parse(embedded));
})();
