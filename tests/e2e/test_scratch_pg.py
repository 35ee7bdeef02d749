import time, subprocess, psycopg, pytest
from tests.fixtures.fix_engine import *
def test_copy(engine):
    subprocess.run(['/work/main/.venv/bin/tpchgen-cli','-s','0.1','--format=tbl','--tables=lineitem','--output-dir=/tmp/pgx/tpch'],check=True)
    ddl="""create table lineitem (l_orderkey bigint, l_partkey bigint, l_suppkey bigint, l_linenumber int, l_quantity numeric(15,2), l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2), l_returnflag char(1), l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44), primary key (l_orderkey, l_linenumber))"""
    data=open('/tmp/pgx/tpch/lineitem.tbl','rb').read().replace(b'|\n',b'\n')
    with engine.connect() as c:
        c.autocommit=True
        c.execute(ddl)
        t=time.time()
        with c.cursor().copy("copy lineitem from stdin (format csv, delimiter '|')") as s:
            for i in range(0,len(data),1<<20): s.write(data[i:i+(1<<20)])
        dt=time.time()-t; n=data.count(b'\n'); print('COPY IN',n,dt,n/dt,'rows/s',len(data)/dt/1e6,'MB/s')
        print(c.execute('select count(*),sum(l_quantity),min(l_comment) from lineitem').fetchall())
        t=time.time(); k=0
        with c.cursor().copy("copy lineitem to stdout (format csv, delimiter '|')") as s:
            for b in s: k+=len(b)
        dt=time.time()-t; print('COPY OUT',k,len(data),n/dt,'rows/s')
        t=time.time(); cur=c.execute('select * from lineitem'); dt=time.time()-t; print('SELECT *',cur.rowcount,n/dt,'rows/s')
        with pytest.raises(psycopg.Error) as e:
            with c.cursor().copy("copy lineitem from stdin (format csv, delimiter '|')") as s: s.write(data[:10000]+b'\nx|1\n')
        print(e.value, e.value.diag.context)
        import asyncpg,asyncio
        async def a():
            k=await asyncpg.connect(host='127.0.0.1',port=engine.ports['postgres'],user=USER,password=PASSWORD,database=DATABASE)
            print(await k.fetch('select l_orderkey,l_quantity,l_shipdate,l_comment from lineitem where l_orderkey=$1 and l_linenumber=$2',1,1))
            await k.close()
        asyncio.run(a())
