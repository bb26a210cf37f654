import pytest, traceback
from pathlib import Path
pytestmark=pytest.mark.ray
def test_probe(tiny, tmp_path):
    from pipelines import run
    from pipelines.run import Compute
    t=run.plan(tiny.experiment.override({"test_on":("dfdc",)}),tiny.videos,tiny.ledgers,tiny.faces,tmp_path)
    run.run(t,Compute(),lambda *a:None)
    # zero faces
    led=dict(tiny.ledgers); led["dfdc"]={k:dict(v)|{"status":"no_face","reason":"x"} for k,v in led["dfdc"].items()}
    z=run.plan(tiny.experiment.override({"test_on":("dfdc",)}),tiny.videos,led,tiny.faces,tmp_path)
    try: run.check(z,Compute()); run.run(z,Compute(),lambda *a:None); print("ZERO ok", z.results().to_pandas()[["stage","metric","value","n_real","n_missing"]])
    except Exception as e: print("ZERO", type(e), str(e)[:300])
    z=run.plan(tiny.experiment,tiny.videos,led,tiny.faces,tmp_path)
    try: run.check(z,Compute()); run.run(z,Compute(),lambda *a:None); print("ZERO2 ok", z.results().to_pandas()[["stage","metric","value","n_real","n_missing"]])
    except Exception as e: print("ZERO2", type(e), str(e)[:300])
    # garbage through ray
    for s in t.planned:
        if s.name=="finetune":
            (s.folder/"weights.safetensors").write_bytes(b"garbage")
            for p in (s.folder/"predictions").iterdir(): p.unlink()
    (t.folder/"_done.json").unlink()
    import time; t0=time.time()
    try: run.run(t,Compute(),lambda *a:None)
    except Exception as e: print("GARBAGE", round(time.time()-t0,1), type(e), "FIRST LINE:", str(e).splitlines()[0][:400]); print("MRO", [c.__name__ for c in type(e).__mro__]); print("FULL", str(e)[-900:])
