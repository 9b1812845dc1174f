//! Which channels were told of a request, who chat users are, and what they clicked.
use serde::Serialize;
use syshold_protocol::{Digest, RequestId, UnixMs};

use super::people::{self, Account};
use super::{Params, Row, StoreError, Transaction, digest, ms, time};

/// How long a link for a chat user is good.
pub const LINK_MS: u64 = 15 * 60 * 1000;
/// How long a click that was not handled may still be, and how long a handled one is remembered.
/// Longer than a signature is good, so that no signed call counts twice.
const CLICK_MS: u64 = 60 * 60 * 1000;

/// One channel told of one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    #[serde(skip)]
    pub request: RequestId,
    pub channel: String,
    pub at: UnixMs,
    /// Why the channel did not take it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip)]
    pub place: Option<Place>,
    #[serde(skip)]
    pub buttons: Option<Buttons>,
    /// Of the message as it stands.
    #[serde(skip)]
    pub shown: Option<Digest>,
}

/// Where a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub channel: String,
    pub ts: String,
}

/// What a message's buttons are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buttons {
    pub handle: String,
    pub rendered: Digest,
}

/// Files what became of telling a channel, in place of what was filed before.
pub fn put(tx: &Transaction<'_>, notice: &Notice) -> Result<(), StoreError> {
    let key = (notice.request.to_string(), &notice.channel);
    let sql = "DELETE FROM notice WHERE request_id = ?1 AND channel = ?2";
    tx.execute(sql, key)?;
    tx.execute(
        "INSERT INTO notice (request_id, channel, at, error, place, place_ts, handle, rendered_sha256, shown_sha256)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        (
            notice.request.to_string(),
            &notice.channel,
            ms(notice.at),
            &notice.error,
            notice.place.as_ref().map(|place| &place.channel),
            notice.place.as_ref().map(|place| &place.ts),
            notice.buttons.as_ref().map(|buttons| &buttons.handle),
            notice.buttons.as_ref().map(|buttons| buttons.rendered.0),
            notice.shown.map(|shown| shown.0),
        ),
    )?;
    Ok(())
}

/// Which channels were told of a request, in that order.
pub fn of(tx: &Transaction<'_>, id: RequestId) -> Result<Vec<Notice>, StoreError> {
    let sql = format!("{SELECT} WHERE request_id = ?1 ORDER BY at, rowid");
    let found = tx.all(&sql, [id.to_string()], raw)?;
    found.into_iter().map(notice).collect()
}

/// The message whose buttons have that handle.
pub fn by_handle(tx: &Transaction<'_>, handle: &str) -> Result<Option<Notice>, StoreError> {
    let sql = format!("{SELECT} WHERE handle = ?1");
    tx.first(&sql, [handle], raw)?.map(notice).transpose()
}

/// Undecided requests that no channel was told of, or tried: those of before a restart.
pub fn untold(tx: &Transaction<'_>) -> Result<Vec<RequestId>, StoreError> {
    ids(
        tx,
        "SELECT request_id FROM request WHERE phase = 'waiting' AND keeper = ?1
         AND NOT EXISTS (SELECT 1 FROM notice WHERE notice.request_id = request.request_id) ORDER BY received_at",
        [tx.keeper()],
    )
}

/// The same of gateways that are gone: from now on they are this one's, and in its ledger.
pub fn take_over(tx: &Transaction<'_>) -> Result<Vec<RequestId>, StoreError> {
    let gone = tx.gone(
        "SELECT DISTINCT keeper FROM request WHERE phase = 'waiting' AND keeper <> ?1
         AND NOT EXISTS (SELECT 1 FROM notice WHERE notice.request_id = request.request_id)",
    )?;
    let sql = "UPDATE request SET keeper = ?1, recorded = 0 WHERE phase = 'waiting' AND keeper = ?2
               AND NOT EXISTS (SELECT 1 FROM notice WHERE notice.request_id = request.request_id)
               RETURNING request_id";
    let mut all = Vec::new();
    for keeper in gone {
        all.extend(ids(tx, sql, [tx.keeper(), keeper])?);
    }
    Ok(all)
}

/// Requests whose messages may say less than is known: those with buttons, and those of the last hour.
pub fn told(tx: &Transaction<'_>, now: UnixMs) -> Result<Vec<RequestId>, StoreError> {
    let since = now.ms().saturating_sub(CLICK_MS);
    ids(
        tx,
        "SELECT DISTINCT request_id FROM notice WHERE error IS NULL AND (handle IS NOT NULL OR at > ?1)",
        [ms(UnixMs::new(since))],
    )
}

fn ids(tx: &Transaction<'_>, sql: &str, params: impl Params) -> Result<Vec<RequestId>, StoreError> {
    let found: Vec<String> = tx.all(sql, params, |row| row.get(0))?;
    found
        .into_iter()
        .map(|id| id.parse().map_err(|_| StoreError::Corrupt("request id")))
        .collect()
}

/// Keeps a click; false: it was here before.
#[must_use = "false: it was here before"]
pub fn add_click(
    tx: &Transaction<'_>,
    id: &str,
    channel: &str,
    body: &[u8],
    now: UnixMs,
) -> Result<bool, StoreError> {
    let old = ms(UnixMs::new(now.ms().saturating_sub(CLICK_MS)));
    tx.execute("DELETE FROM click WHERE at < ?1", [old])?;
    let sql =
        "INSERT INTO click (id, channel, body, at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
    Ok(tx.execute(sql, (id, channel, body, ms(now)))? == 1)
}

/// Nothing more is to be done about a click.
pub fn close_click(tx: &Transaction<'_>, id: &str) -> Result<(), StoreError> {
    let nothing: &[u8] = &[];
    let sql = "UPDATE click SET done = 1, body = ?2 WHERE id = ?1";
    tx.execute(sql, (id, nothing))?;
    Ok(())
}

/// Clicks of a channel that were kept and not handled: those of before a restart.
pub fn open_clicks(
    tx: &Transaction<'_>,
    channel: &str,
) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    let sql = "SELECT id, body FROM click WHERE done = 0 AND channel = ?1";
    tx.all(sql, [channel], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Which account a chat user is, if it still may answer.
pub fn linked(tx: &Transaction<'_>, team: &str, user: &str) -> Result<Option<Account>, StoreError> {
    let name: Option<String> = tx.first(
        "SELECT account FROM chat_link WHERE team_id = ?1 AND user_id = ?2",
        [team, user],
        |row| row.get(0),
    )?;
    match name {
        Some(name) => people::enabled(tx, &name),
        None => Ok(None),
    }
}

/// A chat user who wants to be linked. A newer token ends the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub team: String,
    pub user: String,
    /// What the chat calls that user; for people to read.
    pub name: String,
}

/// Keeps a wish under the digest of its token.
pub fn add_wish(
    tx: &Transaction<'_>,
    token: Digest,
    wish: &Wish,
    now: UnixMs,
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM chat_link_token WHERE expires_at <= ?1",
        [ms(now)],
    )?;
    let sql = "DELETE FROM chat_link_token WHERE sha256 = ?1 OR (team_id = ?2 AND user_id = ?3)";
    tx.execute(sql, (token.0, &wish.team, &wish.user))?;
    tx.execute(
        "INSERT INTO chat_link_token (sha256, team_id, user_id, name, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        (token.0, &wish.team, &wish.user, &wish.name, ms(now.plus(LINK_MS))),
    )?;
    Ok(())
}

/// The wish of that token.
pub fn wish(tx: &Transaction<'_>, token: Digest, now: UnixMs) -> Result<Option<Wish>, StoreError> {
    let sql =
        "SELECT team_id, user_id, name FROM chat_link_token WHERE sha256 = ?1 AND expires_at > ?2";
    tx.first(sql, (token.0, ms(now)), |row| {
        Ok(Wish {
            team: row.get(0)?,
            user: row.get(1)?,
            name: row.get(2)?,
        })
    })
}

/// Makes the wish of that token true for `account`, once.
pub fn link(
    tx: &Transaction<'_>,
    token: Digest,
    account: &str,
    now: UnixMs,
) -> Result<Option<Wish>, StoreError> {
    let Some(wish) = wish(tx, token, now)? else {
        return Ok(None);
    };
    tx.execute("DELETE FROM chat_link_token WHERE sha256 = ?1", [token.0])?;
    tx.execute(
        "INSERT INTO chat_link (team_id, user_id, account, linked_at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (team_id, user_id) DO UPDATE SET account = ?3, linked_at = ?4",
        (&wish.team, &wish.user, account, ms(now)),
    )?;
    Ok(Some(wish))
}

/// Ends every link of an account; how many there were.
pub fn unlink(tx: &Transaction<'_>, account: &str) -> Result<usize, StoreError> {
    tx.execute("DELETE FROM chat_link WHERE account = ?1", [account])
}

const SELECT: &str = "SELECT request_id, channel, at, error, place, place_ts, handle, rendered_sha256, shown_sha256 FROM notice";

type Raw = (
    String,
    String,
    i64,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
);

fn raw(row: &Row) -> rusqlite::Result<Raw> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
        row.get(5)?,
        row.get(6)?,
        row.get(7)?,
        row.get(8)?,
    ))
}

fn notice(
    (request, channel, at, error, place, ts, handle, rendered, shown): Raw,
) -> Result<Notice, StoreError> {
    Ok(Notice {
        request: request
            .parse()
            .map_err(|_| StoreError::Corrupt("request id"))?,
        channel,
        at: time(at),
        error,
        place: place.zip(ts).map(|(channel, ts)| Place { channel, ts }),
        buttons: match handle.zip(rendered) {
            Some((handle, rendered)) => Some(Buttons {
                handle,
                rendered: digest(rendered)?,
            }),
            None => None,
        },
        shown: shown.map(digest).transpose()?,
    })
}
