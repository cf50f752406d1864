// Gets the bearer token once, when a button is pressed, and keeps it in this script alone, until somebody leaves.

const IDLE_MILLISECONDS = 5 * 60 * 1000;
const RECEIPT_PAUSES = [0, 1000, 4000]; // milliseconds before each try to confirm

const { page, proof } = document.querySelector("main").dataset;
const actions = document.querySelector("#actions");
const usage = document.querySelector("#usage");
const secret = document.querySelector("#secret");
const problem = document.querySelector("#problem");
const status = document.querySelector("#status");
const reveal = document.querySelector("#reveal");
const confirm = document.querySelector("#confirm");

let handedOut = null; // the promise of what the server hands out
let download = null; // the address of a file that is being saved
let idle = null;

class Refused extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

async function post(step) {
  let answer;
  try {
    // In another mode than the default, `Origin` would follow the referrer policy, and be "null".
    answer = await fetch(`${page}/${step}`, {
      method: "POST",
      headers: { "X-Pickup-Proof": proof },
      cache: "no-store",
      redirect: "error",
      keepalive: step === "receipt",
    });
    if (answer.ok) return await answer.json();
  } catch {
    throw new Refused("The server did not answer. Look at your connection, and reload this page: it tells what became of the bearer token.", 0);
  }
  const explained = await answer.json().catch(() => ({}));
  throw new Refused(explained.message ?? "The server, or something in front of it, failed. Try again in a minute.", answer.status);
}

function take() {
  handedOut ??= handOut();
  return handedOut;
}

async function handOut() {
  try {
    const taken = await post("hand-out");
    usage.hidden = false;
    for (const outdated of document.querySelectorAll(".until-taken")) outdated.hidden = true;
    if (taken.warning) problem.textContent = taken.warning;
    confirmReceipt(RECEIPT_PAUSES).catch(explain);
    return taken;
  } catch (failure) {
    handedOut = null;
    throw failure;
  }
}

async function confirmReceipt(pauses) {
  try {
    await tryInTurn(pauses, () => post("receipt"));
    confirm.hidden = true;
  } catch (failure) {
    if (isFinal(failure)) throw failure;
    confirm.hidden = false;
    // Nobody is to reload the page now: that would lose the bearer token.
    problem.textContent =
      "This server does not know yet that you have the bearer token. Press “I have it”, or its token is deleted in 5 minutes.";
  }
}

function isFinal(failure) {
  return failure.code >= 400 && failure.code < 500;
}

async function tryInTurn([pause, ...others], ask) {
  await new Promise((resume) => setTimeout(resume, pause));
  try {
    return await ask();
  } catch (failure) {
    if (isFinal(failure) || others.length === 0) throw failure;
    return tryInTurn(others, ask);
  }
}

async function showOrHide() {
  const { bearer_token: text } = await take();
  const isShown = !secret.hidden;
  secret.textContent = isShown ? "" : text;
  secret.hidden = isShown;
  reveal.textContent = isShown ? "Reveal" : "Hide";
  if (!isShown) secret.focus();
  tell(isShown ? "The bearer token is hidden." : "The bearer token is shown. It is not on the server any more.");
}

async function copy() {
  const content = take().then((taken) => new Blob([taken.bearer_token], { type: "text/plain" }));
  try {
    // Browsers allow this for a moment after a press: the promise lets them wait for the server.
    await navigator.clipboard.write([new ClipboardItem({ "text/plain": content })]);
    tell("Copied. Paste it where you keep it, then copy something else, since programs can read the clipboard.");
  } catch {
    await content;
    tell("This browser did not let the page copy. Reveal the bearer token, and copy it by hand.");
  }
}

async function save() {
  const taken = await take();
  forgetDownload();
  download = URL.createObjectURL(new Blob([taken.credentials_file], { type: "application/json" }));
  Object.assign(document.createElement("a"), { href: download, download: taken.file_name }).click();
  tell(`Your browser saves ${taken.file_name}. Let nobody else read that file.`);
}

function forgetDownload() {
  if (download) URL.revokeObjectURL(download);
  download = null;
}

function wipe() {
  if (!handedOut) return false;
  handedOut = null;
  forgetDownload();
  secret.textContent = "";
  secret.hidden = true;
  for (const button of actions.querySelectorAll("button:not(#confirm)")) button.disabled = true;
  reveal.textContent = "Reveal";
  return true;
}

function tell(text) {
  status.textContent = text;
}

function explain(failure) {
  if (!(failure instanceof Refused)) throw failure;
  problem.textContent = `${failure.message} `;
  const link = document.createElement("a");
  link.href = failure.code === 401 ? `${page}/sign-in` : page;
  link.textContent = failure.code === 401 ? "Sign in again" : "Reload this page";
  problem.append(link);
}

function watch(button, act) {
  button?.addEventListener("click", async () => {
    problem.textContent = "";
    try {
      await act();
    } catch (failure) {
      tell("");
      explain(failure);
    }
  });
}

function waitForIdleness() {
  clearTimeout(idle);
  idle = setTimeout(() => {
    if (wipe()) tell("Nothing happened here for 5 minutes, so the bearer token was removed from this page.");
  }, IDLE_MILLISECONDS);
}

watch(reveal, showOrHide);
watch(document.querySelector("#copy"), copy);
watch(document.querySelector("#download"), save);
watch(confirm, async () => {
  await confirmReceipt([0]);
  if (!confirm.hidden) return;
  if (usage) tell("That is noted: the bearer token is picked up.");
  else location.reload();
});
for (const event of ["pointerdown", "keydown"]) addEventListener(event, waitForIdleness);
waitForIdleness();
addEventListener("pagehide", wipe);
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
actions.hidden = false;
