"""DuckDB over result directories, locked down: it sees the views and nothing else.

The views are Arrow datasets that precalign opens, so the database needs no file of its own and is denied all of them: no reading or writing
of files, no extensions, no network, no settings. What does not fit its memory goes to a temporary directory that vanishes with it.
"""

from __future__ import annotations

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from precalign.analysis.query.views import RESULT
from precalign.analysis.readers import printable
from precalign.errors import InputError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from precalign.analysis.query.views import View

MEMORY = "1GB"


@dataclass(frozen=True)
class Answer:
    """Rows of a query, computed as they are taken.

    Attributes
    ----------
    schema : pyarrow.Schema
    batches : iterator of RecordBatch
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


class Database:
    """Views of results in DuckDB; a context manager.

    Parameters
    ----------
    held : sequence of View
    with_result : bool
        Whether rows say which result they are of.
    memory : str
        What the database may hold in memory, as DuckDB writes it: "1GB".

    Raises
    ------
    UnavailableError
        If DuckDB is not installed.
    UsageError
        If `memory` is no size.
    """

    def __init__(self, held: Sequence[View], *, with_result: bool, memory: str = MEMORY) -> None:
        self._duckdb = _duckdb()
        self._views = list(held)
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._scratch = tempfile.TemporaryDirectory(prefix="precalign-query-")
        try:
            self._connection = self._connect(memory)
            for view in self._views:
                self._add(view, with_result=with_result)
            self._connection.execute("SET lock_configuration = true")
        except BaseException:
            self._scratch.cleanup()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown()  # an interrupted query ends first
        self._connection.close()
        self._scratch.cleanup()

    def _connect(self, memory: str) -> Any:  # noqa: ANN401 - duckdb is optional
        settings = {
            "enable_external_access": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "temp_directory": self._scratch.name,
        }
        try:
            connection = self._duckdb.connect(":memory:", config=settings | {"memory_limit": memory})
        except self._duckdb.Error as error:
            raise UsageError(
                f"memory {printable(memory)!r} is no size: {printable(error)}", hint="as 500MB, 2GB"
            ) from error
        return connection

    def _add(self, view: View, *, with_result: bool) -> None:
        if not with_result:
            (only,) = view.parts.values()
            self._connection.register(view.name, only)
            return
        selects = []
        for i, (name, part) in enumerate(view.parts.items()):
            self._connection.register(f"{view.name}_{i}", part)
            selects.append(f"SELECT {_literal(name)} AS {RESULT}, * FROM {view.name}_{i}")  # noqa: S608 - quoted above
        self._connection.execute(f"CREATE VIEW {view.name} AS " + " UNION ALL BY NAME ".join(selects))

    def run(self, sql: str) -> Answer:
        """Run one SELECT and return its rows, computed as they are taken.

        Parameters
        ----------
        sql : str
            SELECT, WITH, FROM, DESCRIBE, SUMMARIZE or SHOW.

        Raises
        ------
        UsageError
            If it is no SQL, more than one statement, no SELECT, or names what is not there.
        InputError
            If it cannot be computed.
        """
        with self._explained(sql):
            statements = self._connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != self._duckdb.StatementType.SELECT:
                raise UsageError(
                    "a query is one SELECT: results are read, never changed",
                    hint="WITH name AS (SELECT ...) takes the place of a table of your own",
                )
            reader = self._aside(lambda: pa.RecordBatchReader.from_stream(self._connection.sql(sql)))
        return Answer(reader.schema, self._batches(sql, reader))

    def _batches(self, sql: str, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        while True:
            with self._explained(sql):
                batch = self._aside(lambda: next(reader, None))
            if batch is None:
                return
            yield batch

    def _aside(self, work: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the work returns
        """Work in the other thread, because this one hears of Ctrl-C only while it is in Python."""
        try:
            return self._worker.submit(work).result()
        except KeyboardInterrupt:
            self._connection.interrupt()
            raise

    @contextmanager
    def _explained(self, sql: str) -> Iterator[None]:
        """Turn what DuckDB and Arrow raise into errors of precalign."""
        duckdb = self._duckdb
        try:
            yield
        except UsageError:
            raise
        except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as error:
            raise UsageError(_lines(error), hint=self._hint(str(error), sql)) from error
        except duckdb.PermissionException as error:
            raise UsageError(
                _lines(error), hint="a query reads the views of the results given, and no other files"
            ) from error
        except (duckdb.Error, pa.ArrowException, OSError, RuntimeError) as error:
            more = "give it more with --memory" if "memory" in str(error).lower() else None
            raise InputError(_lines(error), hint=more) from error

    def _hint(self, message: str, sql: str) -> str:
        """Say which names there are that look like the one that is not there."""
        views = {view.name: [field.name for field in view.fields] for view in self._views}
        missing = re.search(r'[Cc]olumn (?:named )?"([^"]+)"', message)
        if missing:
            used = [name for name in views if re.search(rf"\b{name}\b", sql)] or list(views)
            near = get_close_matches(missing[1], dict.fromkeys(c for name in used for c in views[name]), n=3)
            if near:
                return "is it " + " or ".join(near) + "? --tables lists all columns"
        return f"views: {', '.join(views)}; --tables lists their columns"


def _duckdb() -> Any:  # noqa: ANN401 - duckdb is optional
    try:
        import duckdb
    except ImportError as error:
        raise UnavailableError(
            "precalign query needs DuckDB, which is not installed",
            hint="pip install 'precalign[query]'; or open the parquet files with a tool of yours",
        ) from error
    return duckdb


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _lines(error: BaseException) -> str:
    """Return the first line of a message, and where it points to in the query."""
    lines = [printable(line, 200) for line in str(error).splitlines()]
    first = lines[0] if lines else type(error).__name__
    at = next((i for i, line in enumerate(lines) if line.startswith("LINE ")), None)
    return "\n  ".join([first, *(lines[at : at + 2] if at is not None else [])])
