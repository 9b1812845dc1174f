//! What the state is kept in. SQL elsewhere in this folder is written once, against [`Transaction`];
//! a [`Database`] runs it.
//!
//! Values are SQLite's: 64-bit integers, text and bytes, parameters `?1`, `?2`, … A database that
//! spells these otherwise translates.
use rusqlite::types::{FromSql, Null, ToSql, ToSqlOutput, Value, ValueRef};

use super::StoreError;

/// A database that the state is kept in.
pub(super) trait Database: Send {
    /// Begins a transaction. Until it ends no other one of this state runs, whoever began it: what a
    /// transaction has read stays true until it has written.
    fn begin(&mut self) -> Result<Box<dyn Running + '_>, StoreError>;
}

/// A transaction that runs; dropped, it is undone.
pub(super) trait Running {
    /// How many rows it changed.
    fn execute(&self, sql: &str, params: &[Value]) -> Result<usize, StoreError>;
    /// Every row it finds.
    fn query(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>, StoreError>;
    /// Whose ledger is to have what this transaction files; 0 where there is one gateway only.
    fn keeper(&self) -> i64 {
        0
    }
    /// Whether the gateway that is that keeper runs.
    fn runs(&self, _keeper: i64) -> Result<bool, StoreError> {
        Ok(false)
    }
    /// Durable when this returns.
    fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// A transaction, for SQL.
#[expect(missing_debug_implementations, reason = "is a connection")]
pub struct Transaction<'a>(Box<dyn Running + 'a>);

impl<'a> Transaction<'a> {
    pub(super) fn new(running: Box<dyn Running + 'a>) -> Self {
        Self(running)
    }

    pub(super) fn commit(self) -> Result<(), StoreError> {
        self.0.commit()
    }

    /// See [`Running::keeper`].
    pub(super) fn keeper(&self) -> i64 {
        self.0.keeper()
    }

    /// Whose requests and decisions this gateway is to record: its own, and those of who is gone.
    pub(super) fn keeps(&self) -> Result<Vec<i64>, StoreError> {
        let mut all = self.gone(
            "SELECT keeper FROM request WHERE recorded = 0 AND keeper <> ?1
             UNION SELECT keeper FROM decision WHERE recorded = 0 AND keeper <> ?1
             UNION SELECT keeper FROM revocation WHERE n IS NULL AND keeper <> ?1",
        )?;
        all.push(self.keeper());
        Ok(all)
    }

    /// Which of the keepers that `sql` finds, other than `?1`, do not run any more.
    pub(super) fn gone(&self, sql: &str) -> Result<Vec<i64>, StoreError> {
        let own = self.keeper();
        if own == 0 {
            return Ok(Vec::new());
        }
        let mut gone = Vec::new();
        for keeper in self.all(sql, [own], |row| row.get(0))? {
            if !self.0.runs(keeper)? {
                gone.push(keeper);
            }
        }
        Ok(gone)
    }

    /// How many rows it changed.
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        self.0.execute(sql, &params.values()?)
    }

    /// The first row it finds, if there is one.
    pub fn first<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let rows = self.0.query(sql, &params.values()?)?;
        Ok(rows.first().map(read).transpose()?)
    }

    /// The row that it always finds.
    pub fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let none = rusqlite::Error::QueryReturnedNoRows;
        Ok(self.first(sql, params, read)?.ok_or(none)?)
    }

    /// Every row it finds.
    pub fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self.0.query(sql, &params.values()?)?;
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }
}

/// What a query found.
#[derive(Debug)]
pub struct Row(pub(super) Vec<Value>);

impl Row {
    /// The column of that number, from 0.
    pub fn get<T: FromSql>(&self, column: usize) -> rusqlite::Result<T> {
        let value = self
            .0
            .get(column)
            .ok_or(rusqlite::Error::InvalidColumnIndex(column))?;
        T::column_result(value.into()).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(column, value.data_type(), error.into())
        })
    }
}

/// What `?1`, `?2`, … stand for: a tuple or an array.
pub trait Params {
    /// In that order.
    fn values(&self) -> rusqlite::Result<Vec<Value>>;
}

impl<T: ToSql, const N: usize> Params for [T; N] {
    fn values(&self) -> rusqlite::Result<Vec<Value>> {
        self.iter().map(|one| value(one)).collect()
    }
}

impl Params for Vec<Value> {
    fn values(&self) -> rusqlite::Result<Vec<Value>> {
        Ok(self.clone())
    }
}

/// Nothing.
impl Params for () {
    fn values(&self) -> rusqlite::Result<Vec<Value>> {
        Ok(Vec::new())
    }
}

macro_rules! tuples {
    ($($name:ident)+) => {
        impl<$($name: ToSql),+> Params for ($($name,)+) {
            #[expect(non_snake_case, reason = "a variable is called as its type")]
            fn values(&self) -> rusqlite::Result<Vec<Value>> {
                let ($($name,)+) = self;
                Ok(vec![$(value($name)?),+])
            }
        }
    };
}
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);
tuples!(A B C D E F G H I);
tuples!(A B C D E F G H I J);
tuples!(A B C D E F G H I J K);
tuples!(A B C D E F G H I J K L);

fn value(of: &dyn ToSql) -> rusqlite::Result<Value> {
    Ok(match of.to_sql()? {
        ToSqlOutput::Borrowed(value) => owned(value)?,
        ToSqlOutput::Owned(value) => value,
        _ => Null.into(),
    })
}

/// Text that is no UTF-8 is nobody's.
pub(super) fn owned(value: ValueRef<'_>) -> rusqlite::Result<Value> {
    Value::column_result(value).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, value.data_type(), error.into())
    })
}
