// What a screen reader is told without being asked: a finished answer, a question, a change of the connection.

const ROOM = 600; // characters: enough to know what it is about; the whole is in the conversation

let place = null;

export function announceIn(element) {
  place = element;
}

export function announce(text) {
  if (place === null) return;
  const said = text.length > ROOM ? `${text.slice(0, ROOM)}…` : text;
  // A region whose text does not change is not read again.
  place.textContent = place.textContent === said ? `${said} ` : said;
}
