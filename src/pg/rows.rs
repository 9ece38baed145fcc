//! Rows that a query returned, kept in work_mem and beyond it in files, in types of the server's own.
//!
//! The receiver is like that of src/backend/executor/tstoreReceiver.c. Values are converted while the query runs, as its
//! user: output functions and casts can be code of others. What is read out of it later runs nobody's code.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::spi::SpiClient;
use pgrx::{pg_guard, pg_sys, PgLogLevel, Spi};

use crate::error::{Error, Result};

/// How the values of a type are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// As they are, under this type: the type itself, or what a domain is of.
    Kept { type_oid: u32, typmod: i32 },
    /// As the type prints them.
    Text,
    /// Element by element as the type prints them.
    TextArray,
    /// As jsonb: rows, and arrays of them.
    Json,
}

/// What is known of a type.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Without domains over it.
    pub base: u32,
    pub typmod: i32,
    /// A row type, or a row of no type.
    pub is_row: bool,
    /// Of an array: its element.
    pub element: Option<Element>,
}

#[derive(Debug, Clone, Copy)]
pub struct Element {
    /// As declared, and without domains over it.
    pub declared: u32,
    pub base: u32,
    pub is_row: bool,
    /// Its arrays are printed with commas (pg_type.typdelim).
    pub comma: bool,
}

/// A column as it is kept.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub how: How,
    pub type_oid: u32,
    pub typmod: i32,
}

/// What a receiver needs to be told.
pub struct Rules {
    pub how: fn(&Facts) -> How,
    pub names: fn(&[String]) -> Vec<String>,
    /// More bytes than this are an error.
    pub most_bytes: u64,
    pub too_many: fn(u64) -> Error,
}

/// The rows. They belong to the transaction level in which they were made.
pub struct Rows {
    store: *mut pg_sys::Tuplestorestate,
    context: pg_sys::MemoryContext,
    desc: pg_sys::TupleDesc,
    rules: Rules,
    pub columns: Vec<Column>,
    pub count: u64,
    /// Of their values, as they would lie in a table.
    pub bytes: u64,
}

impl Rows {
    pub fn new(rules: Rules) -> Self {
        // SAFETY: the context is a child of the current one; the store belongs to the current resource owner. Both are
        // given back by drop, or by the end of the transaction.
        unsafe {
            let context = pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                c"startup_wh rows".as_ptr(),
                0,
                8 * 1024,
                8 * 1024 * 1024,
            );
            let outer = pg_sys::MemoryContextSwitchTo(context);
            let store = pg_sys::tuplestore_begin_heap(false, false, pg_sys::work_mem);
            pg_sys::MemoryContextSwitchTo(outer);
            Rows { store, context, desc: std::ptr::null_mut(), rules, columns: Vec::new(), count: 0, bytes: 0 }
        }
    }

    /// Runs statements that can read the rows as a relation of this name, in order.
    pub fn read<T>(&self, name: &std::ffi::CStr, f: impl FnOnce(&mut SpiClient<'_>) -> Result<T>) -> Result<T> {
        Spi::connect_mut(|client| {
            // SAFETY: what is registered lives as long as the SPI connection, the rows longer.
            unsafe {
                let relation = pg_sys::palloc0(size_of::<pg_sys::EphemeralNamedRelationData>())
                    .cast::<pg_sys::EphemeralNamedRelationData>();
                (*relation).md.name = pg_sys::pstrdup(name.as_ptr());
                (*relation).md.tupdesc = self.desc;
                (*relation).md.enrtype = pg_sys::EphemeralNameRelationType::ENR_NAMED_TUPLESTORE;
                (*relation).md.enrtuples = self.count as f64;
                (*relation).reldata = self.store.cast();
                pg_sys::SPI_register_relation(relation);
            }
            f(client)
        })
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        // SAFETY: made by new, ended here alone.
        unsafe {
            pg_sys::tuplestore_end(self.store);
            pg_sys::MemoryContextDelete(self.context);
        }
    }
}

/// What the executor hands rows to.
#[repr(C)]
pub struct Receiver {
    head: pg_sys::DestReceiver,
    rows: *mut Rows,
    outputs: Vec<pg_sys::Oid>,
    to_json: Vec<Option<Box<pg_sys::FmgrInfo>>>,
    varlena: Vec<bool>,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    scratch: pg_sys::MemoryContext,
}

impl Receiver {
    /// One that fills `rows`, which must outlive it.
    pub fn new(rows: &mut Rows) -> Box<Receiver> {
        // SAFETY: a child of the current context, which goes with it.
        let scratch = unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                c"startup_wh row".as_ptr(),
                0,
                8 * 1024,
                8 * 1024 * 1024,
            )
        };
        Box::new(Receiver {
            head: pg_sys::DestReceiver {
                receiveSlot: Some(receive),
                rStartup: Some(startup),
                rShutdown: Some(shutdown),
                rDestroy: Some(shutdown),
                mydest: pg_sys::CommandDest::DestTuplestore,
            },
            rows,
            outputs: Vec::new(),
            to_json: Vec::new(),
            varlena: Vec::new(),
            values: Vec::new(),
            nulls: Vec::new(),
            scratch,
        })
    }

    pub fn as_dest(&mut self) -> *mut pg_sys::DestReceiver {
        std::ptr::from_mut(self).cast()
    }
}

/// SAFETY: called by the executor with the receiver that it was given.
#[pg_guard]
unsafe extern "C-unwind" fn startup(this: *mut pg_sys::DestReceiver, _operation: i32, desc: pg_sys::TupleDesc) {
    // SAFETY: as above; the receiver begins with its head. The rows outlive it.
    unsafe {
        let this = &mut *this.cast::<Receiver>();
        let rows = &mut *this.rows;
        let attributes = (*desc).natts.max(0) as usize;
        let mut names = Vec::with_capacity(attributes);
        for n in 0..attributes {
            let attribute = attribute(desc, n);
            names.push(std::ffi::CStr::from_ptr((*attribute).attname.data.as_ptr()).to_string_lossy().into_owned());
        }
        let names = (rows.rules.names)(&names);
        let outer = pg_sys::MemoryContextSwitchTo(rows.context);
        rows.desc = pg_sys::CreateTemplateTupleDesc(attributes as i32);
        for (n, name) in names.into_iter().enumerate() {
            let attribute = attribute(desc, n);
            let given = (*attribute).atttypid;
            let how = (rows.rules.how)(&facts(given, (*attribute).atttypmod));
            let (type_oid, typmod) = match how {
                How::Kept { type_oid, typmod } => (type_oid, typmod),
                How::Text => (pg_sys::TEXTOID.to_u32(), -1),
                How::TextArray => (pg_sys::TEXTARRAYOID.to_u32(), -1),
                How::Json => (pg_sys::JSONBOID.to_u32(), -1),
            };
            // A name holds no NUL: it was one a moment ago.
            let label = super::sql::cstring(&name).unwrap_or_default();
            pg_sys::TupleDescInitEntry(rows.desc, n as i16 + 1, label.as_ptr(), type_oid.into(), typmod, 0);
            let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
            if matches!(how, How::Text | How::TextArray) {
                pg_sys::getTypeOutputInfo(given, &mut output, &mut is_varlena);
            }
            this.outputs.push(output);
            this.to_json.push((how == How::Json).then(|| to_jsonb(given, rows.context)));
            this.varlena.push((*self::attribute(rows.desc, n)).attlen == -1);
            rows.columns.push(Column { name, how, type_oid, typmod });
        }
        pg_sys::MemoryContextSwitchTo(outer);
        this.values = vec![pg_sys::Datum::from(0); attributes];
        this.nulls = vec![true; attributes];
    }
}

/// # Safety
/// `desc` has more than `n` attributes.
unsafe fn attribute(desc: pg_sys::TupleDesc, n: usize) -> *mut pg_sys::FormData_pg_attribute {
    #[cfg(not(feature = "pg18"))]
    // SAFETY: as above.
    return unsafe { (*desc).attrs.as_mut_ptr().add(n) };
    #[cfg(feature = "pg18")]
    // SAFETY: as above.
    return unsafe { pg_sys::TupleDescAttr(desc, n as i32) };
}

/// to_jsonb, which reads the type of its argument off the expression that calls it (get_fn_expr_argtype,
/// src/backend/utils/fmgr/fmgr.c).
///
/// # Safety
/// Within a transaction; `context` outlives the use.
unsafe fn to_jsonb(of: pg_sys::Oid, context: pg_sys::MemoryContext) -> Box<pg_sys::FmgrInfo> {
    // SAFETY: as above.
    unsafe {
        let mut info = Box::<pg_sys::FmgrInfo>::default();
        pg_sys::fmgr_info_cxt(pg_sys::Oid::from(pg_sys::F_TO_JSONB), &mut *info, context);
        let argument = pg_sys::makeNullConst(of, -1, pg_sys::InvalidOid);
        let arguments = pg_sys::lappend(std::ptr::null_mut(), argument.cast());
        let call = pg_sys::makeFuncExpr(
            pg_sys::Oid::from(pg_sys::F_TO_JSONB),
            pg_sys::JSONBOID,
            arguments,
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
        );
        info.fn_expr = call.cast();
        info
    }
}

/// # Safety
/// Within a transaction.
unsafe fn facts(type_oid: pg_sys::Oid, typmod: i32) -> Facts {
    // SAFETY: catalog look-ups of a type that a plan has.
    unsafe {
        let is_row = |oid: pg_sys::Oid| oid == pg_sys::RECORDOID || pg_sys::get_typtype(oid) as u8 == b'c';
        let mut typmod = typmod;
        let base = pg_sys::getBaseTypeAndTypmod(type_oid, &mut typmod);
        let declared = pg_sys::get_element_type(base);
        let element = (declared != pg_sys::InvalidOid).then(|| {
            let (mut len, mut by_value, mut align, mut delimiter) = (0, false, 0, 0);
            let (mut io, mut function) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
            pg_sys::get_type_io_data(
                declared,
                pg_sys::IOFuncSelector::IOFunc_output,
                &mut len,
                &mut by_value,
                &mut align,
                &mut delimiter,
                &mut io,
                &mut function,
            );
            let of = pg_sys::getBaseType(declared);
            Element {
                declared: declared.to_u32(),
                base: of.to_u32(),
                is_row: is_row(of),
                comma: delimiter as u8 == b',',
            }
        });
        let is_row = is_row(base) || base == pg_sys::RECORDARRAYOID;
        Facts { base: base.to_u32(), typmod, is_row, element }
    }
}

/// SAFETY: called by the executor with a row of the kind that [`startup`] was told of.
#[pg_guard]
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, this: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: as above.
    unsafe {
        let this = &mut *this.cast::<Receiver>();
        let rows = &mut *this.rows;
        pg_sys::slot_getallattrs(slot);
        let outer = pg_sys::MemoryContextSwitchTo(this.scratch);
        for (n, column) in rows.columns.iter().enumerate() {
            let is_null = *(*slot).tts_isnull.add(n);
            this.nulls[n] = is_null;
            if is_null {
                continue;
            }
            let given = *(*slot).tts_values.add(n);
            this.values[n] = match column.how {
                // A value that lies apart may be gone later, or be another one.
                How::Kept { .. } if this.varlena[n] => {
                    pg_sys::Datum::from(pg_sys::detoast_external_attr(given.cast_mut_ptr()))
                }
                How::Kept { .. } => given,
                How::Text => {
                    let text = pg_sys::OidOutputFunctionCall(this.outputs[n], given);
                    pg_sys::Datum::from(pg_sys::cstring_to_text(text))
                }
                How::TextArray => {
                    let text = pg_sys::OidOutputFunctionCall(this.outputs[n], given);
                    pg_sys::OidInputFunctionCall(pg_sys::Oid::from(pg_sys::F_ARRAY_IN), text, pg_sys::TEXTOID, -1)
                }
                How::Json => match &mut this.to_json[n] {
                    Some(function) => pg_sys::FunctionCall1Coll(&mut **function, pg_sys::InvalidOid, given),
                    None => given,
                },
            };
        }
        rows.count += 1;
        rows.bytes +=
            pg_sys::heap_compute_data_size(rows.desc, this.values.as_mut_ptr(), this.nulls.as_mut_ptr()) as u64;
        if rows.bytes > rows.rules.most_bytes {
            ErrorReport::from((rows.rules.too_many)(rows.rules.most_bytes)).report(PgLogLevel::ERROR);
        }
        pg_sys::tuplestore_putvalues(rows.store, rows.desc, this.values.as_mut_ptr(), this.nulls.as_mut_ptr());
        pg_sys::MemoryContextSwitchTo(outer);
        pg_sys::MemoryContextReset(this.scratch);
        true
    }
}

/// SAFETY: called by the executor; what there is to free belongs to the receiver's maker.
#[pg_guard]
unsafe extern "C-unwind" fn shutdown(_this: *mut pg_sys::DestReceiver) {}

/// A function's rows, as it returns them at once: beyond work_mem they go to a file (InitMaterializedSRF,
/// src/backend/utils/fmgr/funcapi.c).
pub struct Sink {
    info: *mut pg_sys::ReturnSetInfo,
}

impl Sink {
    /// For the call of a set-returning function.
    pub fn new(call: pg_sys::FunctionCallInfo) -> Self {
        // SAFETY: the call of one of our functions, which the server made.
        unsafe {
            pg_sys::InitMaterializedSRF(call, pg_sys::MAT_SRF_USE_EXPECTED_DESC);
            Sink { info: (*call).resultinfo.cast() }
        }
    }

    /// Runs a query that returns columns as the function does, and hands its rows over, some at a time.
    pub fn fill(&self, query: &str, args: &[DatumWithOid]) -> Result<()> {
        let query = super::sql::cstring(query)?;
        let mut types: Vec<pg_sys::Oid> = args.iter().map(DatumWithOid::oid).collect();
        let mut values: Vec<pg_sys::Datum> =
            args.iter().map(|a| a.datum().map_or(pg_sys::Datum::from(0), |d| d.sans_lifetime())).collect();
        let nulls: Vec<std::ffi::c_char> =
            args.iter().map(|a| if a.datum().is_none() { b'n' } else { b' ' } as std::ffi::c_char).collect();
        Spi::connect(|_| {
            // SAFETY: within an SPI connection; what is passed outlives the calls. The store and its description live as
            // long as the function's call, and rows are copied into it.
            unsafe {
                let portal = pg_sys::SPI_cursor_open_with_args(
                    std::ptr::null(),
                    query.as_ptr(),
                    args.len() as i32,
                    types.as_mut_ptr(),
                    values.as_mut_ptr(),
                    nulls.as_ptr(),
                    true,
                    0,
                );
                loop {
                    pg_sys::SPI_cursor_fetch(portal, true, 1000);
                    let found = pg_sys::SPI_processed as usize;
                    for n in 0..found {
                        let row = *(*pg_sys::SPI_tuptable).vals.add(n);
                        pg_sys::tuplestore_puttuple((*self.info).setResult, row);
                    }
                    pg_sys::SPI_freetuptable(pg_sys::SPI_tuptable);
                    if found == 0 {
                        pg_sys::SPI_cursor_close(portal);
                        return Ok(());
                    }
                }
            }
        })
    }
}
