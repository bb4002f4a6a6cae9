// Which part of a long conversation is here: pages of the store, a bounded number of messages at a time.

export const MOST = 200; // messages in the document
const PAGE = 50;

/**
 * The window of a transcript. Pages are kept in mind from the newest (0) to the oldest that is here; the newest ones
 * may have been dropped again: then the transcript is detached from what happens.
 */
export class Pages {
  constructor(link, session, transcript) {
    this._link = link;
    this._session = session;
    this._transcript = transcript;
    this._pages = []; // {cursor, first}: what each was asked with, and its first message
    this._bottom = 0; // the newest of them that is here
    this._older = undefined; // the cursor of the page before
    this._busy = null;
    this.loaded = false;
  }

  get hasOlder() {
    return this._older !== undefined;
  }

  get hasNewer() {
    return this._bottom > 0;
  }

  /** Wait until nothing is being read. */
  async idle() {
    while (this._busy !== null) await this._busy.catch(() => {});
  }

  /** Read the newest page. */
  newest() {
    return this._once(async () => {
      this._transcript.needsPage = false; // what is missed from here on asks for it again
      const page = await this._read(undefined);
      const first = this._transcript.messages[0]?.id;
      this._transcript.takePage(page.messages);
      this.loaded = true;
      // Nothing of what was here is left: it is the only page.
      if (this._pages.length === 0 || this._transcript.messages[0]?.id !== first) this._only(page);
    });
  }

  /** Read the page before what is here, and drop the newest if there is too much. */
  older() {
    return this._once(async () => {
      const cursor = this._older;
      const page = await this._read(cursor);
      this._older = page.next_cursor;
      if (page.messages.length === 0) return;
      this._transcript.takePage(page.messages, { older: true });
      this._pages.push({ cursor, first: page.messages[0].info.id });
      while (this._transcript.messages.length > MOST && this._bottom < this._pages.length - 1) this._dropNewest();
    });
  }

  /** Read the page after what is here, and drop the oldest; false if that is the newest: attach anew then. */
  newer() {
    if (this._bottom <= 1) return Promise.resolve(false);
    return this._once(async () => {
      const page = await this._read(this._pages[this._bottom - 1].cursor);
      this._transcript.appendPage(page.messages);
      this._bottom -= 1;
      while (this._transcript.messages.length > MOST && this._pages.length - 1 > this._bottom) {
        this._older = this._pages.pop().cursor;
        this._transcript.forgetBefore(this._pages.at(-1).first);
      }
      return true;
    });
  }

  /** There may be more than fits, by messages that came: `following` if the newest are the ones that are looked at. */
  trim(following) {
    const size = this._transcript.messages.length;
    if (size <= MOST || this._busy !== null || !this._transcript.attached) return;
    if (!following && this._pages.length > 1) this._dropNewest();
    else if (following || size > 2 * MOST) {
      this._once(async () => {
        const page = await this._read(undefined);
        this._transcript.takePage(page.messages);
        this._transcript.forgetBefore(page.messages[0]?.info.id);
        this._only(page);
      }).catch(() => {});
    }
  }

  _only(page) {
    this._pages = [{ cursor: undefined, first: page.messages[0]?.info.id }];
    this._older = page.next_cursor;
    this._bottom = 0;
  }

  _dropNewest() {
    const at = this._transcript.messages.findIndex((message) => message.id === this._pages[this._bottom].first);
    this._transcript.detach(at < 0 ? MOST : at);
    this._bottom += 1;
  }

  _read(cursor) {
    return this._link.request("session.messages", { session_id: this._session, limit: PAGE, ...(cursor === undefined ? {} : { cursor }) });
  }

  /** One at a time; who comes meanwhile gets the one that is under way. */
  _once(work) {
    this._busy ??= work().finally(() => (this._busy = null));
    return this._busy;
  }
}
