//! SQLite's values as PostgreSQL's, and back.
use std::error::Error;

use rusqlite::types::Value;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::store::StoreError;
use crate::store::db::Row;

/// A parameter of a statement.
#[derive(Debug)]
pub(super) struct Param(Value);

impl Param {
    pub(super) fn all(values: &[Value]) -> Vec<Self> {
        values.iter().cloned().map(Self).collect()
    }
}

impl ToSql for Param {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match (&self.0, ty) {
            (Value::Null, _) => Ok(IsNull::Yes),
            (Value::Integer(number), &Type::INT8) => number.to_sql(ty, out),
            (Value::Text(text), &Type::TEXT) => text.to_sql(ty, out),
            (Value::Blob(bytes), &Type::BYTEA) => bytes.to_sql(ty, out),
            (value, ty) => Err(format!("{} for {ty}", value.data_type()).into()),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// What the server found.
pub(super) fn row(found: &tokio_postgres::Row) -> Result<Row, StoreError> {
    let columns = found.columns().iter().enumerate();
    let values = columns.map(|(index, column)| {
        let value = match *column.type_() {
            Type::INT8 => found.try_get::<_, Option<i64>>(index)?.map(Value::Integer),
            Type::BOOL => found.try_get::<_, Option<bool>>(index)?.map(Value::from),
            Type::BYTEA => found.try_get::<_, Option<Vec<u8>>>(index)?.map(Value::Blob),
            _ => found.try_get::<_, Option<String>>(index)?.map(Value::Text),
        };
        Ok(value.unwrap_or(Value::Null))
    });
    let values: Result<_, tokio_postgres::Error> = values.collect();
    values.map(Row).map_err(|error| said(&error))
}

/// What the server said, without the values that its DETAIL may name.
pub(super) fn said(error: &tokio_postgres::Error) -> StoreError {
    StoreError::Postgres(match (error.as_db_error(), error.source()) {
        (Some(server), _) => format!("{} ({})", server.message(), server.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    })
}
